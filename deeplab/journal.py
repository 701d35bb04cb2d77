"""What is logged of the segmentation training: the published TensorBoard tags, pictures, and a watch for broken losses."""

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from configs.deeplab_schema import ImageConfig
from deeplab.dataset import to_rgb
from utils.distributed import Dist, sum_over_ranks
from utils.errors import UserError
from utils.memory import GIBIBYTE
from utils.visualize import label_colours


class LossHistory:
    """The latest iteration losses, kept on the device until somebody reads them.

    Args:
        window: how many the average is over.
        place: this process; losses are sums of the processes' parts.
        latest: losses of the run that is resumed, oldest first.
    """

    def __init__(self, window: int, place: Dist, latest: Sequence[float] = ()) -> None:
        self.place = place
        self.latest: deque[float] = deque(latest, maxlen=window)
        self._unread: list[tuple[Tensor, list[str]]] = []

    def add(self, loss: Tensor, ids: list[str]) -> None:
        """Append the loss of an iteration (a scalar) on images `ids`."""
        self._unread.append((loss.detach(), ids))

    def read(self) -> float:
        """Return the mean of the latest losses; every process must call it.

        Raises:
            UserError: when a loss since the last reading is not finite, naming its images.
        """
        if self._unread:
            losses = sum_over_ranks(torch.stack([loss for loss, _ in self._unread]), self.place.world)
            for value, (_, ids) in zip(losses.tolist(), self._unread, strict=True):
                if not abs(value) < float("inf"):
                    raise UserError(
                        f"loss {value:g} on images {', '.join(ids)}: training stops; lower solver.lr, use "
                        "train.loss=balanced or train.warmup_iters, or check these images (the last checkpoint is intact)"
                    )
                self.latest.append(value)
            self._unread.clear()
        return sum(self.latest) / max(1, len(self.latest))


def write_scalars(
    writer: SummaryWriter, iteration: int, loss: float, rates: Sequence[float], speed: Mapping[str, float]
) -> None:
    """Write loss/train, lr/group_<i>, train/<name> of `speed` and, per visible GPU, gpu/device_<i>/memory_cached (GiB)."""
    writer.add_scalar("loss/train", loss, iteration)
    for index, rate in enumerate(rates):
        writer.add_scalar(f"lr/group_{index}", rate, iteration)
    for name, value in speed.items():
        writer.add_scalar(f"train/{name}", value, iteration)
    for index in range(torch.cuda.device_count()):
        writer.add_scalar(f"gpu/device_{index}/memory_cached", torch.cuda.memory_reserved(index) / GIBIBYTE, iteration)


def write_pictures(
    writer: SummaryWriter, iteration: int, images: Tensor, labels: Tensor, logits: Tensor, image: ImageConfig
) -> None:
    """Write the first image of a mini-batch, its labels and what the network says.

    Args:
        writer: of TensorBoard.
        iteration: 1-based.
        images: (B, 3, H, W) network inputs.
        labels: (B, H, W).
        logits: (1, classes, h, w).
        image: how inputs were made.
    """
    picture = to_rgb(images[0].float().cpu(), image)
    side = labels.shape[1:]
    predicted = F.interpolate(logits, size=side, mode="bilinear", align_corners=False)[0].argmax(0)
    pictures = {
        "input": picture,
        "label": label_colours(labels[0].byte().cpu().numpy()),
        "prediction": label_colours(predicted.byte().cpu().numpy()),
    }
    for name, pixels in pictures.items():
        writer.add_image(f"train/{name}", pixels, iteration, dataformats="HWC")

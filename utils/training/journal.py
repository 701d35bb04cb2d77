"""The journal of a training: TensorBoard scalars and pictures, and one log line for each reading of the scalars."""

import contextlib
import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from configs.deeplab_schema import ImageConfig
from utils.data.classes import BACKGROUND, label_value, palette
from utils.data.transforms import to_rgb
from utils.drawing.overlays import heat_map, label_colours
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.runtime.device import GIBIBYTE, peak_memory
from utils.runtime.processes import Dist, sum_over_ranks
from utils.training.state import Position, PublishedNetwork
from utils.training.weights import save_weights


class TrainJournal:
    """Writes on the main process and is silent on the others; get one from `open_journal`."""

    def __init__(self, writer: SummaryWriter | None, log: logging.Logger) -> None:
        self.writer, self.log = writer, log

    def scalars(self, at: Position, values: Mapping[str, float], rate: float, total: int) -> None:
        """Write `train/<name>` and a log line.

        Args:
            at: the position after the batch.
            values: means since the last reading.
            rate: base learning rate, written as `train/lr`.
            total: batches of the epoch.
        """
        if self.writer is None:
            return
        for name, value in {**values, "lr": rate}.items():
            self.writer.add_scalar(f"train/{name}", value, at.counter)
        parts = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.log.info("epoch %d batch %d/%d lr %.3g %s", at.epoch, at.batch, total, rate, parts)

    def pictures(self, at: Position, draw: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write `train/<name>` pictures, each (3, h, w) float in [0, 1]; `draw` is called only where they are written."""
        if self.writer is None:
            return
        for name, picture in draw().items():
            self.writer.add_image(f"train/{name}", picture, at.counter)


@contextlib.contextmanager
def open_journal(folder: Path, log: logging.Logger, *, is_main: bool, counter: int) -> Iterator[TrainJournal]:
    """Open the TensorBoard folder `<folder>/tb`; a run resumed at batch `counter` hides what lies beyond it."""
    if not is_main:
        yield TrainJournal(None, log)
        return
    with SummaryWriter(str(folder / "tb"), purge_step=counter or None) as writer:
        yield TrainJournal(writer, log)


def write_outputs(model_dir: Path, network: PublishedNetwork, at: Position, images: int, place: Dist) -> Path:
    """Write `final.pth` (`network` alone, published names; the path returned) and `summary.json` into `model_dir`."""
    final = model_dir / "final.pth"
    save_weights(network.to_published(network.state_dict()), final)
    write_summary(model_dir / "summary.json", at, images, place)
    return final


def write_summary(path: Path, at: Position, images: int, place: Dist) -> None:
    """Write how long the training took, over how many images and epochs, on what, and its peak memory, as JSON."""
    summary = {
        "seconds": round(at.seconds, 1),
        "epochs": at.epoch,
        "images": images,
        "processes": place.world,
        "device": str(place.device),
        "peak_memory_gib": round(peak_memory(place.device), 3),
    }
    write_text_atomic(path, json.dumps(summary, indent=2) + "\n")


GRID_SIDE = 160


def training_pictures(
    batch: Mapping[str, Any], views: Mapping[str, Tensor], mean: list[float], std: list[float]
) -> dict[str, Tensor]:
    """Draw the first image of a batch and the maps its patches led to.

    Args:
        batch: images (B, 3, S, S), saliency (B, 1, S, S), boxes (B, K, 4), labels (B, C).
        views: of the first image: `global_map` (1, C + 1, h, w) and, from L2G, `local_map`, `target`, `softmax`
            (K, C + 1, h, w).
        mean: channel means the images were normalised with.
        std: channel deviations.

    Returns:
        name -> (3, height, width) float in [0, 1]: input, saliency, global_cam and, from L2G, patch_input, local_cam,
        target, global_softmax and winner (class colours of the target's winning channel).
    """
    present = batch["labels"][0].bool().cpu()
    image, saliency = batch["images"][:1].float().cpu(), batch["saliency"][:1].float().cpu()
    image = (image * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)).clamp(0, 1)
    pictures = {
        "input": _strip(image),
        "saliency": _strip(saliency.expand(-1, 3, -1, -1)),
        "global_cam": _strip(_heat(_attention(views["global_map"].float().cpu(), present))),
    }
    if "target" not in views:
        return pictures
    local, target, softmax = (views[name].float().cpu() for name in ("local_map", "target", "softmax"))
    crops = [image[:, :, y1:y2, x1:x2] for x1, y1, x2, y2 in batch["boxes"][0].tolist()]
    pictures["patch_input"] = _strip(torch.cat(crops))
    pictures["local_cam"] = _strip(_heat(_attention(local, present)))
    pictures["target"] = _strip(_heat(target[:, :-1].amax(dim=1, keepdim=True)))
    pictures["global_softmax"] = _strip(_heat(softmax[:, :-1].amax(dim=1, keepdim=True)))
    pictures["winner"] = _strip(_colours(target))
    return pictures


def _attention(score_map: Tensor, present: Tensor) -> Tensor:
    """Return (N, 1, h, w): the present classes' scores, ReLU, each divided by its maximum, the largest of them."""
    scores = score_map[:, :-1][:, present].clamp_min(0)
    scores = scores / (scores.amax(dim=(2, 3), keepdim=True) + torch.finfo(torch.float32).eps)
    return scores.amax(dim=1, keepdim=True)


def _heat(maps: Tensor) -> Tensor:
    """Return (N, 3, h, w) colours of (N, 1, h, w) maps in [0, 1]."""
    return torch.stack([torch.from_numpy(heat_map(m[0].numpy())).permute(2, 0, 1) / 255 for m in maps])


def _colours(target: Tensor) -> Tensor:
    """Return (N, 3, h, w) class colours of the winning channel; the last channel is background."""
    colours = torch.tensor(list(palette())).view(-1, 3).float() / 255
    background = target.shape[1] - 1
    value, channel = target.max(dim=1)
    label_of_channel = torch.tensor([label_value(k) for k in range(background)] + [BACKGROUND])
    labels = torch.where(value == 0, BACKGROUND, label_of_channel[channel])
    return colours[labels].permute(0, 3, 1, 2)


def _strip(pictures: Tensor) -> Tensor:
    """Lay (N, 3, h, w) pictures side by side at a common size."""
    side = max(GRID_SIDE, pictures.shape[-1]) if pictures.shape[0] == 1 else GRID_SIDE
    from torchvision.utils import make_grid  # here: torchvision takes as long to load as torch itself

    return make_grid(F.interpolate(pictures, size=(side, side), mode="nearest"), nrow=pictures.shape[0], padding=2)


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


SUFFIX = ".hparams"


def log_hparams(folder: Path, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write an event file with hyper-parameters and final scores; the one of an earlier call is replaced.

    Args:
        folder: log folder of the run; its name is the row of the HPARAMS tab.
        settings: name -> text, number or truth value.
        scores: name -> value in [0, 1], written as the scalars score/<name>.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name, SummaryWriter(name) as writer:
        before = set(Path(name).iterdir())
        # The library writes a truth value as a number.
        told = {key: str(value).lower() if isinstance(value, bool) else value for key, value in settings.items()}
        writer.add_hparams(told, {f"score/{key}": value for key, value in scores.items()}, run_name=".")
        (written,) = set(Path(name).iterdir()) - before  # add_hparams opens a writer, and so a file, of its own
        for earlier in folder.glob(f"*{SUFFIX}"):
            earlier.unlink(missing_ok=True)
        written.replace(folder / f"{written.name}{SUFFIX}")

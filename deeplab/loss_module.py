"""Network and loss in one module, so that one forward call is what several processes agree on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deeplab.losses import multi_scale_loss
from deeplab.multi_scale import MultiScale


class LossModule(nn.Module):
    """Map images and labels to the losses of all scales.

    Args:
        network: in training mode it returns a list of logits.
        balanced: kind of cross-entropy, see `multi_scale_loss`.
        reduce_counts: sums pixel counts over processes.
    """

    def __init__(self, network: MultiScale, *, balanced: bool, reduce_counts: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.balanced, self.reduce_counts = network, balanced, reduce_counts

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return "losses" (M,), this process's part of the global loss of each map, and "first", the last map's logits
        (1, classes, h, w) of the first image, detached."""
        outputs = self.network(images)
        with torch.autocast(images.device.type, enabled=False):
            losses = multi_scale_loss(outputs, labels, balanced=self.balanced, reduce_counts=self.reduce_counts)
        return {"losses": losses, "first": outputs[-1][:1].detach()}

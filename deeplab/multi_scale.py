"""The multi-scale wrapper (MSC): one network at several scales, and the maximum of what it says."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiScale(nn.Module):
    """Run `base` on an input and on smaller copies of it, with shared weights (Chen et al. 2016, multi-scale inputs).

    Args:
        base: network from (B, 3, H, W) to (B, classes, h, w).
        scales: factors of the copies, e.g. 0.5 and 0.75; empty runs the input alone.
        freeze_bn: BatchNorm stays in evaluation mode and its scale and shift are not trained, whatever mode is set.
    """

    def __init__(self, base: nn.Module, scales: list[float], *, freeze_bn: bool = True) -> None:
        super().__init__()
        self.base = base
        self.scales = scales
        self.freeze_bn = freeze_bn
        if freeze_bn:
            for norm in self._norms():
                norm.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Return logits (float32) of (B, 3, H, W) images.

        Training mode: [input, each scale at its own size, maximum of all at the input's logit size] (the input alone
        without `scales`). Evaluation mode: that maximum (B, classes, h, w).
        """
        logits = self.base(images).float()
        pyramid = [
            self.base(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)).float()
            for scale in self.scales
        ]
        maximum = logits
        for scaled in pyramid:
            resized = F.interpolate(scaled, size=logits.shape[2:], mode="bilinear", align_corners=False)
            maximum = torch.maximum(maximum, resized)
        if not self.training:
            return maximum
        return [logits, *pyramid, maximum] if pyramid else [logits]

    def train(self, mode: bool = True) -> "MultiScale":
        """Set the mode; frozen normalisation stays frozen."""
        super().train(mode)
        if self.freeze_bn:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [m for m in self.base.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

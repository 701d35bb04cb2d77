"""Discriminative region suppression (DRS, AAAI 2021): no place of a channel may exceed a share of the channel's maximum.

What is most discriminative is cut down to size, so that the less discriminative parts of an object count for more.
"""

import torch
from torch import Tensor, nn

from models.gate import Gate

SUPPRESSIONS = ("learnable", "fixed")


class LearnableSuppression(Gate):
    """y = min(x, M k) with M the channel's maximum over space and k = sigmoid(W mean over space of x); W has no bias.

    Gradients flow through x, M and k. A channel whose maximum is negative stays as it is, for M k is then above it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W), any sign."""
        share: Tensor = self.fc(x.mean(dim=(2, 3)))
        return torch.minimum(x, (_peaks(x) * share)[:, :, None, None])


class FixedSuppression(Gate):
    """y = min(x, ratio M) with M the channel's maximum over space; nothing to learn."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W), any sign."""
        return torch.minimum(x, (_peaks(x) * self.ratio)[:, :, None, None])


def build_suppression(kind: str, channels: int, ratio: float) -> Gate:
    """Build "learnable" suppression of `channels` channels, or "fixed" with `ratio` in (0, 1]."""
    return LearnableSuppression(channels) if kind == "learnable" else FixedSuppression(ratio)


def _peaks(x: Tensor) -> Tensor:
    """Return each channel's maximum (B, C); on a tie one place gets the gradient, as published (amax would share it)."""
    return x.flatten(2).max(dim=2).values

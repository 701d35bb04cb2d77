"""Attention over channels or places, one small module a kind; all map (B, C, H, W) to the same shape.

`se` is what the published system keeps; the others are those it compares with. Parameter names are the published ones.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.attention_maps import ChannelAttention, GlobalAttention, PolarizedChannel, PolarizedSpatial, PositionAttention
from models.gate import Gate

SIMAM_EPSILON = 1e-4


class SqueezeExcitation(Gate):
    """x a with a = sigmoid(W2 relu(W1 mean over space of x)), without biases (SE, CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        middle = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, middle, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(middle, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each channel weighed in (0, 1)."""
        weights: Tensor = self.fc(x.mean(dim=(2, 3)))
        return x * weights[:, :, None, None]


class SpatialConv(Gate):
    """x sigmoid(1 x 1 convolution to one channel): each place weighed in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each place weighed."""
        return x * self.conv(x).sigmoid()


class EfficientChannel(Gate):
    """x sigmoid(1-D convolution over the vector of channel means) (ECA, CVPR 2020)."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each channel weighed by its neighbours' means."""
        return x * self.conv(x.mean(dim=(2, 3))[:, None])[:, 0, :, None, None].sigmoid()


class SimAm(Gate):
    """x sigmoid(d / (4 (variance + 1e-4)) + 0.5) with d the squared distance to the channel's mean (SimAM, ICML 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each element weighed; H W > 1."""
        distance = (x - x.mean(dim=(2, 3), keepdim=True)).square()
        variance = distance.sum(dim=(2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
        return x * (distance / (4 * (variance + SIMAM_EPSILON)) + 0.5).sigmoid()


class NormAttention(Gate):
    """x sigmoid(w BN(x)), w the absolute scales of the BatchNorm divided by their sum, without gradient (NAM, 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each element weighed."""
        scales = self.bn2.weight.detach().abs()
        return x * (self.bn2(x) * (scales / scales.sum())[:, None, None]).sigmoid()


class Sum(Gate):
    """The sum of what several attentions return."""

    def __init__(self, parts: dict[str, Gate]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum over the parts of (B, C, H, W)."""
        return torch.stack([part(x) for part in self.parts.values()]).sum(dim=0)


# name -> (channels, reduction of se) -> module
ATTENTIONS: dict[str, Callable[[int, int], Gate]] = {
    "se": SqueezeExcitation,
    "spatial": lambda channels, _: SpatialConv(channels),
    "eca": lambda channels, _: EfficientChannel(),
    "simam": lambda channels, _: SimAm(),
    "nam": lambda channels, _: NormAttention(channels),
    "pam": lambda channels, _: PositionAttention(channels),
    "cam": lambda channels, _: ChannelAttention(),
    "gam": lambda channels, _: GlobalAttention(channels),
    "polarized_channel": lambda channels, _: PolarizedChannel(channels),
    "polarized_spatial": lambda channels, _: PolarizedSpatial(channels),
}


def build_attention(kind: str, channels: int, reduction: int) -> Gate:
    """Build the attention `kind` (of `ATTENTIONS`, or several joined by "+") for `channels` channels."""
    parts = {name: ATTENTIONS[name](channels, reduction) for name in kind.split("+")}
    return Sum(parts) if len(parts) > 1 else next(iter(parts.values()))

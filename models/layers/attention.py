"""Attention over channels or places, one small module a kind; all map (B, C, H, W) to the same shape.

`se` is what the published system keeps; the others are those it compares with. Parameter names are the published ones.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """A layer that weighs features; (B, C, H, W) in and out."""

    def published_parameters(self) -> list[nn.Parameter]:
        """Return what the published optimiser holds of it: its 2-D convolutions.

        That program collects nothing else, so the linear layers of squeeze-and-excitation and of learnable suppression keep
        their random start; the published figures come from that.
        """
        return [p for m in self.modules() if isinstance(m, nn.Conv2d) for p in m.parameters(recurse=False)]


# Published divisors of the channels inside.
PAM_REDUCTION, GAM_REDUCTION = 8, 4
GAM_KERNEL = 7


class PositionAttention(Gate):
    """gamma (v softmax(q'k)') + x over all pairs of places; gamma starts at 0, so that it starts as the identity (PAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // PAM_REDUCTION)
        self.query_conv = nn.Conv2d(channels, inner, 1)
        self.key_conv = nn.Conv2d(channels, inner, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W); memory grows with (H W)^2."""
        query, keys, values = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = (query.transpose(1, 2) @ keys).softmax(dim=-1)
        return self.gamma * (values @ attention.transpose(1, 2)).view_as(x) + x


class ChannelAttention(Gate):
    """gamma (A X) + x with E = X X' and A = softmax(row maximum of E - E); gamma starts at 0 (CAM of DANet)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2)
        attention = (energy.amax(dim=-1, keepdim=True) - energy).softmax(dim=-1)
        return self.gamma * (attention @ flat).view_as(x) + x


class GlobalAttention(Gate):
    """x times an MLP over the channels of each place (no sigmoid), then times sigmoid of two 7 x 7 convolutions (GAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // GAM_REDUCTION)
        self.channel_attention = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels))
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(channels, inner, GAM_KERNEL, padding=GAM_KERNEL // 2),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, GAM_KERNEL, padding=GAM_KERNEL // 2),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        weighed = x * self.channel_attention(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return weighed * self.spatial_attention(weighed).sigmoid()


class PolarizedChannel(Gate):
    """x sigmoid(LayerNorm(1 x 1 convolution of z)), z the values pooled by a softmax over places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.ch_wv = nn.Conv2d(channels, inner, 1)
        self.ch_wq = nn.Conv2d(channels, 1, 1)
        self.ch_wz = nn.Conv2d(inner, channels, 1)
        self.ln = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each channel weighed in (0, 1)."""
        values, query = self.ch_wv(x).flatten(2), self.ch_wq(x).flatten(2).softmax(dim=-1)
        pooled = (values @ query.transpose(1, 2))[..., None]
        weights = self.ln(self.ch_wz(pooled).flatten(1)).sigmoid()
        return x * weights[:, :, None, None]


class PolarizedSpatial(Gate):
    """x sigmoid(q v), q the query averaged over places, v the values at each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.sp_wv = nn.Conv2d(channels, inner, 1)
        self.sp_wq = nn.Conv2d(channels, inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each place weighed in (0, 1)."""
        query = self.sp_wq(x).mean(dim=(2, 3))
        return x * torch.einsum("bc,bchw->bhw", query, self.sp_wv(x)).sigmoid()[:, None]


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

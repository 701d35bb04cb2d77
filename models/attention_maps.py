"""Attentions with maps of their own: dual attention (DANet, CVPR 2019), GAM (2021), polarized attention (2021)."""

import torch
from torch import Tensor, nn

from models.gate import Gate

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

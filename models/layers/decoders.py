"""Decoders of single-stage segmentation: context of the deep features, detail of the shallow ones, and their exchange.

WS-FCN's parts: `FlexibleContext`, `Align`, `FeatureFusion`; 1-Stage's: `AtrousContext`, `GlobalCue`; both: `StochasticGate`,
`segmentation_head`. Attribute names are the published key names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT_CHANNELS = 256
DROPOUT = 0.5


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, *, affine: bool = True, relu: bool = True) -> nn.Sequential:
    """Return a convolution without bias that keeps the size, BatchNorm and, if asked for, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs, affine=affine), *([nn.ReLU()] if relu else []))


def resize(x: Tensor, size: tuple[int, int], *, corners: bool = True) -> Tensor:
    """Resize (B, D, h, w) bilinearly to `size` (H, W); `corners`: corner pixels keep their places (align_corners)."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=corners)


def size_of(x: Tensor) -> tuple[int, int]:
    """Return (H, W) of a (B, D, H, W) tensor."""
    return x.shape[2], x.shape[3]


class GlobalContext(nn.Sequential):
    """Mean over space, 1x1 convolution, BatchNorm, ReLU; the one cell is spread over the map again."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(inputs, outputs))

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        result: Tensor = super().forward(input)
        return result.expand(-1, -1, *size_of(input))


class StripConv2d(nn.Conv2d):
    """A k x 1 (`dim` 0) or 1 x k (`dim` 1) convolution without bias that keeps the size.

    Taps that lie outside of the map wherever the kernel stands (36 pixels apart on a map of 41) only ever meet padding: they
    are left out, which changes nothing but the time.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, dim: int) -> None:
        size = (kernel, 1) if dim == 0 else (1, kernel)
        padding = tuple((k - 1) // 2 * dilation for k in size)
        super().__init__(inputs, outputs, size, padding=padding, dilation=dilation, bias=False)  # type: ignore[arg-type]
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, inputs, H, W)."""
        kernel, dilation = self.kernel_size[self.dim], self.dilation[self.dim]
        side = min(kernel // 2, (input.shape[2 + self.dim] - 1) // dilation)
        weight = self.weight.narrow(2 + self.dim, kernel // 2 - side, 2 * side + 1)
        padding = (side * dilation, 0) if self.dim == 0 else (0, side * dilation)
        return F.conv2d(input, weight, padding=padding, dilation=self.dilation)


class CrossedStrips(nn.Module):
    """A k x 1 after a 1 x k convolution plus a 1 x k after a k x 1 one. `bn` is in published files but not used."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.conv1_1 = StripConv2d(inputs, outputs, kernel, dilation, 0)
        self.conv1_2 = StripConv2d(outputs, outputs, kernel, dilation, 1)
        self.bn = nn.BatchNorm2d(outputs)
        self.conv2_1 = StripConv2d(inputs, outputs, kernel, dilation, 1)
        self.conv2_2 = StripConv2d(outputs, outputs, kernel, dilation, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        result: Tensor = self.conv1_2(self.conv1_1(x)) + self.conv2_2(self.conv2_1(x))
        return result


class ChannelAttention(nn.Module):
    """CBAM's: x sigmoid(MLP(mean) + MLP(max)), over space, one MLP without biases and without reduction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False))
        self.sharedMLP = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of (B, D, H, W)."""
        return x * (self.sharedMLP(x.mean((2, 3), keepdim=True)) + self.sharedMLP(x.amax((2, 3), keepdim=True))).sigmoid()


class SpatialAttention(nn.Module):
    """x + x sigmoid(3x3 convolution of channel mean and channel maximum)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the pixels of (B, D, H, W)."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid() + x


class Context(nn.Module):
    """Four branches and a global one, joined by a 1x1 convolution and BatchNorm; a subclass has the branches."""

    def add_join(self, inputs: int, width: int) -> None:
        """Add what comes after the branches: published files name it last."""
        self.global_avg_pool = GlobalContext(inputs, width)
        self.conv1 = nn.Conv2d(5 * width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(DROPOUT)
        _kaiming(self)

    def joined(self, x: Tensor, branches: list[Tensor]) -> Tensor:
        """Return (B, width, H, W) of the input (B, inputs, H, W) and its four branches (B, width, H, W)."""
        result: Tensor = self.bn1(self.conv1(torch.cat([*branches, self.global_avg_pool(x)], dim=1)))
        return result


class FlexibleContext(Context):
    """WS-FCN's flexible context aggregation (FCA).

    Four pairs of crossed strip convolutions, weighed by one shared channel attention, and a global branch; joined by a 1x1
    convolution and BatchNorm without ReLU, then spatial attention and dropout.

    Args:
        inputs: channels of the deep features.
        width: channels of the branches and of the result (published: 256).
    """

    kernels_dilations = ((1, 1), (3, 12), (5, 24), (7, 36))

    def __init__(self, inputs: int, width: int = CONTEXT_CHANNELS) -> None:
        super().__init__()
        self.sa = SpatialAttention()
        self.ca = ChannelAttention(width)
        self.fca1, self.fca2, self.fca3, self.fca4 = (
            CrossedStrips(inputs, width, kernel, dilation) for kernel, dilation in self.kernels_dilations
        )
        self.add_join(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, width, H, W)."""
        branches = [self.ca(branch(x)) for branch in (self.fca1, self.fca2, self.fca3, self.fca4)]
        result: Tensor = self.dropout(self.sa(self.joined(x, branches)))
        return result


class AtrousBranch(nn.Module):
    """A dilated convolution, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        kernel, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return F.relu(self.bn(self.atrous_conv(x)))


class AtrousContext(Context):
    """1-Stage's atrous spatial pyramid pooling (ASPP): a 1x1 branch, three 3x3 ones with dilation and a global one."""

    dilations = (1, 12, 24, 36)

    def __init__(self, inputs: int, width: int = CONTEXT_CHANNELS) -> None:
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (AtrousBranch(inputs, width, d) for d in self.dilations)
        self.add_join(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, width, H, W)."""
        branches = [branch(x) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        result: Tensor = self.dropout(F.relu(self.joined(x, branches)))
        return result


class Align(nn.Module):
    """Deep features moved onto the shallow grid along a learned flow (WS-FCN; flow alignment as in SFNet).

    Args:
        shallow, deep: their channels.
        width: of the features the flow is made from (published: 128).
    """

    def __init__(self, shallow: int, deep: int, width: int = CONTEXT_CHANNELS // 2) -> None:
        super().__init__()
        self.down_h = nn.Conv2d(deep, width, 1, bias=False)
        self.down_l = nn.Conv2d(shallow, width, 1, bias=False)
        self.flow_make = nn.Conv2d(2 * width, 2, 3, padding=1, bias=False)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Return `deep` (B, D, h, w) at the size of `shallow` (B, S, H, W)."""
        size = size_of(shallow)
        flow = self.flow_make(torch.cat([resize(self.down_h(deep), size, corners=False), self.down_l(shallow)], dim=1))
        return warp(deep, flow)


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Sample features at moved places, bilinearly; outside of the map there is 0.

    Args:
        features: (B, D, h, w); its corner cells are the corners of the flow's grid.
        flow: (B, 2, H, W), shifts along x and y in units of half a cell of the H x W grid.

    Returns:
        (B, D, H, W).
    """
    height, width = size_of(flow)
    rows, columns = (torch.linspace(-1, 1, side, device=flow.device) for side in (height, width))
    places = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], dim=-1)
    shift = torch.stack([flow[:, 0].float() / width, flow[:, 1].float() / height], dim=-1)
    return F.grid_sample(features.float(), places + shift, align_corners=True)


class FeatureFusion(nn.Module):
    """WS-FCN's semantically consistent feature fusion (SF2): shallow and deep features exchange what both say.

    Args:
        shallow: its channels.
        width: channels of the deep features and of both results (published: 256).
    """

    def __init__(self, shallow: int, width: int = CONTEXT_CHANNELS) -> None:
        super().__init__()
        for side, inputs in (("h", shallow), ("v", width)):
            for number in range(1, 5):
                self.add_module(f"conv{number}{side}", nn.Conv2d(inputs if number == 1 else width, width, 3, padding=1))
                self.add_module(f"bn{number}{side}", nn.BatchNorm2d(width))
        _kaiming(self)

    def forward(self, shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Return (shallow, deep), both (B, width, H, W) of the shallow size."""
        deep = resize(deep, size_of(shallow), corners=False)
        h1, v1 = self._layer("1h", shallow), self._layer("1v", deep)
        both = self._layer("2h", h1) * self._layer("2v", v1)
        return self._layer("4h", self._layer("3h", both) + h1), self._layer("4v", self._layer("3v", both) + v1)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(f"bn{name}")(self.get_submodule(f"conv{name}")(x)))


class GlobalCue(nn.Module):
    """1-Stage's global cue injection: scale and shift of the shallow features from the strongest deep ones (AdaIN's form)."""

    def __init__(self, shallow: int, width: int = CONTEXT_CHANNELS) -> None:
        super().__init__()
        self.fc_deep = conv_bn_relu(width, 2 * width)
        self.fc_skip = conv_bn_relu(shallow, width, affine=False, relu=False)
        self.fc_cls = conv_bn_relu(width, width)
        _kaiming(self)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Map (B, shallow, H, W) and (B, width, h, w) to (B, width, H, W)."""
        scale, shift = self.fc_deep(deep).amax((2, 3), keepdim=True).chunk(2, dim=1)
        result: Tensor = self.fc_cls(F.relu(self.fc_skip(shallow) * (scale + 1) + shift))
        return result


class StochasticGate(nn.Module):
    """Mixes deep with shallow features so that the deep ones cannot rely on them (1-Stage, Araslanov and Roth, CVPR 2020).

    Args:
        psi: share of the shallow features, in [0, 1).
    """

    def __init__(self, psi: float) -> None:
        super().__init__()
        self.psi = psi

    def forward(self, deep: Tensor, shallow: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the mean (1 - psi) deep + psi shallow, in training a random choice at each element that has it as its mean.

        Args:
            deep, shallow: (B, D, H, W).
            keep: where training takes the deep one, bool of that shape; None: drawn, with probability 1 - psi.
        """
        if not self.training:
            return (1 - self.psi) * deep + self.psi * shallow
        if keep is None:
            keep = torch.rand_like(deep, dtype=torch.float32) >= self.psi
        return torch.where(keep, (deep - self.psi * shallow) / (1 - self.psi), shallow)


def segmentation_head(width: int, classes: int) -> nn.Sequential:
    """Return two 3x3 convolutions with BatchNorm, ReLU and dropout, and a 1x1 classifier: `width` channels to `classes`."""
    head = nn.Sequential(
        *conv_bn_relu(width, width, 3), nn.Dropout(DROPOUT), *conv_bn_relu(width, width, 3), nn.Dropout(0.1),
        nn.Conv2d(width, classes, 1),
    )  # fmt: skip
    _kaiming(head)
    return head


def _kaiming(module: nn.Module) -> None:
    """Draw all convolutions below `module` as published: kaiming-normal, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

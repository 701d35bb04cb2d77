"""ResNet-101 as DeepLab v2 uses it: Caffe's strides, ceil-mode pooling, dilation instead of the last two strides."""

from collections import OrderedDict

from torch import Tensor, nn

STEM_CHANNELS = 64
EXPANSION = 4
BN_EPS = 1e-5
BN_MOMENTUM = 1e-3
# (channels out, stride, dilation) of layer2 to layer5.
STAGES = ((256, 1, 1), (512, 2, 1), (1024, 1, 2), (2048, 1, 4))


class ConvNorm(nn.Sequential):
    """Convolution `conv` without bias, BatchNorm `bn` and, if asked, ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1, relu: bool = True
    ) -> None:
        # A stride-2 7x7 stem pads 3; dilated 3x3 convolutions pad by their dilation.
        padding = kernel // 2 * dilation
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=False),
            bn=nn.BatchNorm2d(channels_out, eps=BN_EPS, momentum=BN_MOMENTUM),
        )
        if relu:
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class Bottleneck(nn.Module):
    """1x1 (with the stride, as in Caffe), dilated 3x3, 1x1, plus shortcut.

    Args:
        project: the shortcut is a 1x1 convolution (first block of every layer) instead of the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        middle = channels_out // EXPANSION
        self.reduce = ConvNorm(channels_in, middle, 1, stride=stride)
        self.conv3x3 = ConvNorm(middle, middle, 3, dilation=dilation)
        self.increase = ConvNorm(middle, channels_out, 1, relu=False)
        self.shortcut = ConvNorm(channels_in, channels_out, 1, stride=stride, relu=False) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        out = self.increase(self.conv3x3(self.reduce(x)))
        return self.relu(out.add_(self.shortcut(x)))


def resnet_trunk(n_blocks: list[int]) -> "OrderedDict[str, nn.Module]":
    """Return layer1 (stem) to layer5 by name, to be put in a row; 2048 channels at stride 8 come out.

    Args:
        n_blocks: bottlenecks of layer2 to layer5; 3, 4, 23, 3 is ResNet-101.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["layer1"] = nn.Sequential(
        OrderedDict(
            conv1=ConvNorm(3, STEM_CHANNELS, 7, stride=2),
            pool=nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        )
    )
    channels = STEM_CHANNELS
    for number, (count, (out, stride, dilation)) in enumerate(zip(n_blocks, STAGES, strict=True), start=2):
        blocks: OrderedDict[str, nn.Module] = OrderedDict(
            (f"block{i + 1}", Bottleneck(out if i else channels, out, 1 if i else stride, dilation, project=i == 0))
            for i in range(count)
        )
        layers[f"layer{number}"] = nn.Sequential(blocks)
        channels = out
    return layers


# Channels of layer1's convolutions, and "P<stride>" for its 3x3 max-pools.
LAYER1 = (64, 64, "P2", 128, 128, "P2", 256, 256, 256, "P2", 512, 512, 512, "P1")
LAST_CHANNELS = 512
CONV5_DILATION = 2


def vgg_trunk() -> "OrderedDict[str, nn.Module]":
    """Return layer1 (conv1 to conv4) and layer2 (conv5) by name, to be put in a row; 512 channels at stride 8 come out."""
    layer1: list[nn.Module] = []
    channels = 3
    for entry in LAYER1:
        if isinstance(entry, int):
            layer1.append(_conv(channels, entry, dilation=1))
            channels = entry
        else:
            layer1.append(nn.MaxPool2d(3, stride=int(entry[1:]), padding=1))
    layer2: list[nn.Module] = [_conv(LAST_CHANNELS, LAST_CHANNELS, dilation=CONV5_DILATION) for _ in range(3)]
    layer2.append(nn.MaxPool2d(3, stride=1, padding=1))
    return OrderedDict(layer1=nn.Sequential(*layer1), layer2=nn.Sequential(*layer2))


def _conv(channels_in: int, channels_out: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True))

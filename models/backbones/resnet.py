"""Bottleneck ResNets: one class; what distinguishes the published ones is data."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EXPANSION = 4
STEM_CHANNELS = 64
STAGES = ("layer1", "layer2", "layer3", "layer4")
LEVELS = ("maxpool", *STAGES)
# ResNet-<depth> -> bottlenecks of the four stages.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Input pixels per cell -> (strides, dilations) of the four stages.
DILATED = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}


@dataclass(frozen=True)
class ResNetLayout:
    """What a ResNet looks like beside its depth; the default is torchvision's, 32 input pixels per cell.

    Attributes:
        strides: of the first block of each stage.
        dilations: of the 3x3 convolutions of each stage; (1, 2, 2, 1) as strides without any is WS-FCN's and IRN's.
        first_keeps_dilation: a stage's first block has the dilation of the stage before (torchvision), not its own (Caffe).
        stride_on_reduce: blocks stride on their first 1x1 convolution (Caffe), not on the 3x3 one (torchvision).
        ceil_pool: the stem's pooling keeps an incomplete window at the border (Caffe).
        bn_momentum: weight of a new batch in BatchNorm's statistics, 0 to 1.
        stem: modules that are usually not fine-tuned.
        outputs: features that come out, in this order: maxpool or layer1 to layer4; the last are *the* features, those
            before it the side features.
    """

    strides: tuple[int, int, int, int] = DILATED[32][0]
    dilations: tuple[int, int, int, int] = DILATED[32][1]
    first_keeps_dilation: bool = True
    stride_on_reduce: bool = False
    ceil_pool: bool = False
    bn_momentum: float = 0.1
    stem: tuple[str, ...] = ("conv1", "bn1", "layer1")
    outputs: tuple[str, ...] = ("layer2", "layer3", "layer4")


TORCHVISION = ResNetLayout()
# WS-FCN, 1-Stage and IRN: a last stage without stride or dilation, 16 input pixels per cell; shallow and deep features.
UNDILATED = replace(TORCHVISION, strides=(1, 2, 2, 1), stem=("conv1", "bn1"), outputs=("layer1", "layer4"))
# DeepLab v2: Caffe's rules, dilation instead of the last two strides.
CAFFE = ResNetLayout(
    *DILATED[8], first_keeps_dilation=False, stride_on_reduce=True, ceil_pool=True, bn_momentum=1e-3, stem=()
)  # fmt: skip


class Bottleneck(nn.Module):
    """1x1, dilated 3x3, 1x1, plus the shortcut: a 1x1 convolution in the first block of a stage, else the input.

    Args:
        inputs: channels in.
        width: channels of the 3x3 convolution; 4 * width come out.
        stride: of the block.
        dilation: of the 3x3 convolution.
        first: of its stage.
        layout: see `ResNetLayout`.
    """

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, *, first: bool, layout: ResNetLayout) -> None:
        super().__init__()
        outputs, momentum = width * EXPANSION, layout.bn_momentum
        reduce_stride, middle_stride = (stride, 1) if layout.stride_on_reduce else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, reduce_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = nn.Conv2d(width, width, 3, middle_stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, momentum=momentum)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if first:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(outputs, momentum=momentum))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4 * width, ceil(H / stride), ceil(W / stride))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)).add_(self.downsample(x)))


class ResNet(nn.Module):
    """Key names are torchvision's, so that its ImageNet weights load.

    Args:
        blocks: bottlenecks of the four stages, see `BLOCKS`.
        layout: see `ResNetLayout`.

    Attributes:
        checkpoint_activations: as of `models.backbones.resnet38.ResNet38`.
    """

    side_dims = (64, 128)
    affinity_dim = 192
    key_prefix = ""
    head_names: dict[str, str] = {}
    classifier_keys = ("fc.*",)
    head_modules: tuple[nn.Module, ...] = ()

    def __init__(self, blocks: tuple[int, ...] = BLOCKS[101], layout: ResNetLayout = TORCHVISION) -> None:
        super().__init__()
        self.layout = layout
        self.checkpoint_activations = False
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS, momentum=layout.bn_momentum)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=layout.ceil_pool)
        channels, before, stride = {"maxpool": STEM_CHANNELS}, 1, 4
        strides = {"maxpool": stride}
        rows = zip(STAGES, blocks, layout.strides, layout.dilations, strict=True)
        for number, (name, count, step, dilation) in enumerate(rows):
            width, stride = STEM_CHANNELS * 2**number, stride * step
            first = before if layout.first_keeps_dilation else dilation
            stage = [Bottleneck([*channels.values()][-1], width, step, first, first=True, layout=layout)]
            stage += [
                Bottleneck(width * EXPANSION, width, 1, dilation, first=False, layout=layout) for _ in range(count - 1)
            ]  # fmt: skip
            self.add_module(name, nn.Sequential(*stage))
            channels[name], strides[name], before = width * EXPANSION, stride, dilation
        *sides, self.out_channels = (channels[name] for name in layout.outputs)
        self.side_channels = tuple(sides)
        self.stride = strides[layout.outputs[-1]]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stem(self) -> list[nn.Module]:
        """Return what is usually not fine-tuned."""
        return [self.get_submodule(name) for name in self.layout.stem]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features `layout.outputs` names of (B, 3, H, W) images; 256, 512, 1024, 2048 channels for the stages."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        found = {"maxpool": x}
        for name in STAGES:
            for block in self.get_submodule(name).children():
                recomputed = self.checkpoint_activations and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
            found[name] = x
        return tuple(found[name] for name in self.layout.outputs)


def dilated_resnet(depth: int, output_stride: int = 8) -> ResNet:
    """Return torchvision's ResNet-`depth` (50, 101 or 152) with dilation instead of its last strides.

    Args:
        depth: a key of `BLOCKS`.
        output_stride: 8, 16 or 32 input pixels per cell.

    Raises:
        ValueError: for another output stride.
    """
    if output_stride not in DILATED:
        raise ValueError(f"model.output_stride is {output_stride}, expected one of {list(DILATED)} for resnet{depth}")
    strides, dilations = DILATED[output_stride]
    return ResNet(BLOCKS[depth], replace(TORCHVISION, strides=strides, dilations=dilations))


_BOTTLENECK = re.compile(r"^layer(\d)\.(\d+)\.(conv|bn)([123])\.(\w+)$")
_SHORTCUT = re.compile(r"^layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)$")
_PARTS = {"1": "reduce", "2": "conv3x3", "3": "increase"}


def caffe_resnet_name(key: str) -> str | None:
    """Return the published DeepLab name of one of our (torchvision's) key names; None for `fc.*`."""
    module, _, leaf = key.partition(".")
    if module in ("conv1", "bn1"):
        return f"layer1.conv1.{module.rstrip('1')}.{leaf}"
    if match := _BOTTLENECK.match(key):
        layer, block, kind, part, leaf = match.groups()
        return f"layer{int(layer) + 1}.block{int(block) + 1}.{_PARTS[part]}.{kind}.{leaf}"
    if match := _SHORTCUT.match(key):
        layer, block, index, leaf = match.groups()
        return f"layer{int(layer) + 1}.block{int(block) + 1}.shortcut.{('conv', 'bn')[int(index)]}.{leaf}"
    return None

"""Trunk names to trunks; a new trunk is one file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from models.backbones.resnet import BLOCKS, LEVELS, UNDILATED, ResNet, dilated_resnet
from models.backbones.resnet38 import ResNet38
from models.backbones.timm import TimmBackbone
from models.backbones.vgg16 import CAM, EXTRA, FULLY, Vgg16
from models.layers.gates import GateOptions

TIMM_PREFIX = "timm:"
# Input pixels per cell of shallow features, and of the undilated ResNets' deep ones.
SHALLOW_STRIDE, UNDILATED_STRIDE = 4, 16


@dataclass(frozen=True)
class TrunkOptions:
    """What a trunk may be told; each takes what it knows. See `models.cam_net.build_cam_network`."""

    width: float = 1.0
    dropout: bool = True
    output_stride: int = 8
    gates: GateOptions | None = None
    shallow: bool = False
    levels: bool = False


# (two or more sizes, all levels) -> outputs of ResNet-38.
RESNET38_OUTPUTS = {
    (False, False): ("b5_in", "b6_in", "bn7"),
    (True, False): ("b3_2", "bn7"),
    (True, True): ("b3_2", "b4_5", "b5_2", "bn7"),
}
TRUNKS: dict[str, Callable[[TrunkOptions], nn.Module]] = {
    "resnet38": lambda options: ResNet38(
        options.width, options.dropout, options.gates, RESNET38_OUTPUTS[options.levels or options.shallow, options.levels]
    ),
    "resnet50": lambda options: _resnet(50, options),
    "resnet101": lambda options: _resnet(101, options),
    "resnet152": lambda options: _resnet(152, options),
    "vgg16": lambda options: _vgg16(options),
}


def build_trunk(
    backbone: str,
    *,
    width: float = 1.0,
    dropout: bool = True,
    output_stride: int = 8,
    gates: GateOptions | None = None,
    shallow: bool = False,
    levels: bool = False,
) -> nn.Module:
    """Build a trunk (`models.cam_net.Trunk`) with random weights.

    Args:
        backbone: resnet38, resnet50, resnet101, resnet152, vgg16 or timm:<name>.
        width, dropout, output_stride, gates: as of `models.cam_net.build_cam_network`.
        shallow: two features, one at a quarter of the picture's size and the deep one, in the forms of WS-FCN and 1-Stage;
            their ResNets have an output stride of 16 without dilation, VGG-16 one of 8 (1-Stage) or 16 (WS-FCN). Else the three
            features of CAM networks.
        levels: instead, features of every level from a quarter of the picture's size on (IRN), of the same ResNets.

    Raises:
        ValueError: for an unknown name, or an output stride the trunk does not have.
    """
    options = TrunkOptions(width, dropout, output_stride, gates, shallow, levels)
    if backbone.startswith(TIMM_PREFIX):
        fine = SHALLOW_STRIDE if shallow or levels else 0
        return TimmBackbone(backbone.removeprefix(TIMM_PREFIX), output_stride, fine, levels=levels)
    if backbone not in TRUNKS:
        raise ValueError(f"model.backbone is '{backbone}', expected one of {', '.join([*TRUNKS, TIMM_PREFIX + '<name>'])}")
    return TRUNKS[backbone](options)


def _resnet(depth: int, options: TrunkOptions) -> nn.Module:
    if not options.shallow and not options.levels:
        return dilated_resnet(depth, options.output_stride)
    if options.output_stride != UNDILATED_STRIDE:
        raise ValueError(
            f"model.output_stride is {options.output_stride}, expected {UNDILATED_STRIDE} for resnet{depth} of this method"
        )
    return ResNet(BLOCKS[depth], replace(UNDILATED, outputs=LEVELS) if options.levels else UNDILATED)


def _vgg16(options: TrunkOptions) -> nn.Module:
    if options.levels:
        return Vgg16(replace(CAM, outputs=("conv3", "conv4", EXTRA)))
    if not options.shallow:
        return Vgg16()
    stride, rest = divmod(options.output_stride, 8)
    if rest or stride not in (1, 2):
        raise ValueError(f"model.output_stride is {options.output_stride}, expected 8 or 16 for vgg16 of this method")
    return Vgg16(replace(FULLY, conv4_stride=stride, dropout=FULLY.dropout * options.dropout))

"""Trunk names to trunks; a new trunk is one file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.backbones.resnet import dilated_resnet
from models.backbones.resnet38 import ResNet38
from models.backbones.timm import TimmBackbone
from models.backbones.vgg16 import Vgg16
from models.layers.gates import GateOptions

TIMM_PREFIX = "timm:"


@dataclass(frozen=True)
class TrunkOptions:
    """What a trunk may be told; each takes what it knows. See `models.cam_net.build_cam_network`."""

    width: float = 1.0
    dropout: bool = True
    output_stride: int = 8
    gates: GateOptions | None = None


TRUNKS: dict[str, Callable[[TrunkOptions], nn.Module]] = {
    "resnet38": lambda options: ResNet38(options.width, options.dropout, options.gates),
    "resnet50": lambda options: dilated_resnet(50, options.output_stride),
    "resnet101": lambda options: dilated_resnet(101, options.output_stride),
    "resnet152": lambda options: dilated_resnet(152, options.output_stride),
    "vgg16": lambda options: Vgg16(),
}


def build_trunk(
    backbone: str, *, width: float = 1.0, dropout: bool = True, output_stride: int = 8, gates: GateOptions | None = None
) -> nn.Module:
    """Build a trunk (`models.cam_net.Trunk`) with random weights; arguments as of `models.cam_net.build_cam_network`."""
    options = TrunkOptions(width, dropout, output_stride, gates)
    if backbone.startswith(TIMM_PREFIX):
        return TimmBackbone(backbone.removeprefix(TIMM_PREFIX), output_stride)
    if backbone not in TRUNKS:
        raise ValueError(f"model.backbone is '{backbone}', expected one of {', '.join([*TRUNKS, TIMM_PREFIX + '<name>'])}")
    return TRUNKS[backbone](options)

"""Trunk names to trunks; a new trunk is one file and one line here."""

from collections.abc import Callable
from functools import partial

from torch import nn

from models.backbones.resnet import dilated_resnet
from models.backbones.resnet38 import ResNet38
from models.backbones.timm import TimmBackbone
from models.backbones.vgg16 import Vgg16
from models.layers.gates import GateOptions

TIMM_PREFIX = "timm:"


def build_trunk(
    backbone: str, *, width: float = 1.0, dropout: bool = True, output_stride: int = 8, gates: GateOptions | None = None
) -> nn.Module:
    """Build a trunk (`models.cam_net.Trunk`) with random weights; arguments as of `models.cam_net.build_cam_network`."""
    trunks: dict[str, Callable[[], nn.Module]] = {
        "resnet38": lambda: ResNet38(width, dropout, gates),
        "resnet50": partial(dilated_resnet, 50, output_stride),
        "resnet101": partial(dilated_resnet, 101, output_stride),
        "resnet152": partial(dilated_resnet, 152, output_stride),
        "vgg16": Vgg16,
    }
    if backbone.startswith(TIMM_PREFIX):
        return TimmBackbone(backbone.removeprefix(TIMM_PREFIX), output_stride)
    if backbone in trunks:
        return trunks[backbone]()
    known = ", ".join([*trunks, TIMM_PREFIX + "<name>"])
    raise ValueError(f"model.backbone is '{backbone}', expected one of {known}")

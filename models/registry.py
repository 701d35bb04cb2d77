"""Trunk names to CAM networks; a new trunk is one file and one line here."""

from collections.abc import Callable

from torch import nn

from models.cam_net import CamNetwork
from models.gates import GateOptions
from models.resnet38 import ResNet38
from models.resnet101 import ResNet101
from models.timm_backbone import TimmBackbone
from models.vgg16 import Vgg16

TIMM_PREFIX = "timm:"


def build_cam_network(
    backbone: str,
    num_classes: int,
    *,
    width: float = 1.0,
    freeze_bn: bool = True,
    freeze_stem: bool = True,
    dropout: bool = True,
    output_stride: int = 8,
    gates: GateOptions | None = None,
) -> CamNetwork:
    """Build a CAM network with random weights.

    Args:
        backbone: resnet38, resnet101, vgg16 or timm:<name>.
        num_classes: foreground classes C.
        width: channel multiplier of resnet38.
        freeze_bn: keep BatchNorm's stored statistics.
        freeze_stem: do not train the stem.
        dropout: of resnet38's last blocks.
        output_stride: of resnet101 and timm trunks; the others have 8.
        gates: suppression and attention; None adds none.

    Raises:
        ValueError: for an unknown name, a gate where there is no place for it, or a missing optional library.
    """
    gates = gates or GateOptions()
    own = ResNet38 if backbone == "resnet38" else None
    gates.check(backbone, own.suppression_places if own else (), own.attention_places if own else ())
    trunk = build_trunk(backbone, width=width, dropout=dropout, output_stride=output_stride, gates=gates)
    return CamNetwork(trunk, num_classes, freeze_bn=freeze_bn, freeze_stem=freeze_stem, gates=gates)


def build_trunk(
    backbone: str, *, width: float = 1.0, dropout: bool = True, output_stride: int = 8, gates: GateOptions | None = None
) -> nn.Module:
    """Build a trunk (see `models.cam_net.Trunk`) with random weights; arguments and errors of `build_cam_network`."""
    trunks: dict[str, Callable[[], nn.Module]] = {
        "resnet38": lambda: ResNet38(width, dropout, gates),
        "resnet101": lambda: ResNet101(output_stride),
        "vgg16": Vgg16,
    }
    if backbone.startswith(TIMM_PREFIX):
        return TimmBackbone(backbone.removeprefix(TIMM_PREFIX), output_stride)
    if backbone in trunks:
        return trunks[backbone]()
    known = ", ".join([*trunks, TIMM_PREFIX + "<name>"])
    raise ValueError(f"model.backbone is '{backbone}', expected one of {known}")

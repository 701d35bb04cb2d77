"""Trunk names to CAM networks."""

from models.cam_net import CamNetwork
from models.resnet38 import ResNet38


def build_cam_network(
    backbone: str, num_classes: int, *, width: float, freeze_bn: bool, freeze_stem: bool, dropout: bool, output_stride: int
) -> CamNetwork:
    """Build a network with random weights."""
    return CamNetwork(ResNet38(width, dropout), num_classes, freeze_bn=freeze_bn, freeze_stem=freeze_stem)

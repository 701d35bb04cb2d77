"""Names of published networks to modules; a new one is a line here."""

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from configs.deeplab_schema import DeepLabConfig, DeepLabModelConfig
from deeplab.heads import aspp, aspp_deep, field_of_view
from deeplab.multi_scale import MultiScale
from deeplab.resnet import STAGES, resnet_trunk
from deeplab.vgg import LAST_CHANNELS, vgg_trunk
from models.registry import build_trunk
from utils.errors import UserError

RESNET_CHANNELS = STAGES[-1][0]
HEAD_NAMES = ("aspp", "fov")


class LastFeatures(nn.Module):
    """A first-stage trunk, of whose features only the last are used."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, channels, h, w) features."""
        features: Tensor = self.network(images)[-1]
        return features


class DeepLab(nn.Sequential):
    """Trunk layers in a row, then the head; the layers' names are the published key names.

    Args:
        trunk: layers by name.
        head_name: aspp or fov.
        head: classifier.
    """

    def __init__(self, trunk: "OrderedDict[str, nn.Module]", head_name: str, head: nn.Module) -> None:
        super().__init__(OrderedDict([*trunk.items(), (head_name, head)]))
        self.head_name = head_name

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    def trunk_alias(self) -> dict[str, str]:
        """Return published trunk weight name -> our key, where the two differ (trunks of the first stage)."""
        trunk = getattr(self, "backbone", None)
        if trunk is None:
            return {}
        prefix = f"backbone.network.{trunk.network.key_prefix}"
        return {key.removeprefix(prefix): key for key in self.state_dict() if key.startswith(prefix)}


def build_deeplab(cfg: DeepLabConfig) -> MultiScale:
    """Build the network `cfg.model.name` with random weights.

    Raises:
        UserError: for an unknown name, or a missing optional library.
    """
    model, classes = cfg.model, cfg.dataset.n_classes
    builders: dict[str, Callable[[], DeepLab]] = {
        "DeepLabV2_ResNet101_MSC": lambda: DeepLab(
            resnet_trunk(model.n_blocks), "aspp", aspp(RESNET_CHANNELS, classes, model.atrous_rates)
        ),
        "DeepLabV1_ResNet101_MSC": lambda: DeepLab(
            resnet_trunk(model.n_blocks), "fov", field_of_view(RESNET_CHANNELS, classes)
        ),
        "DeepLabV2_VGG16_MSC": lambda: DeepLab(
            vgg_trunk(), "aspp", aspp_deep(LAST_CHANNELS, classes, model.atrous_rates)
        ),
        "DeepLabV1_VGG16_MSC": lambda: DeepLab(vgg_trunk(), "aspp", field_of_view(LAST_CHANNELS, classes)),
        "DeepLabV2_Backbone_MSC": lambda: _with_backbone(model, classes),
    }  # fmt: skip
    if model.name not in builders:
        raise UserError(f"model.name is '{model.name}', expected one of {', '.join(builders)}")
    return MultiScale(builders[model.name](), list(model.msc_scales), freeze_bn=model.freeze_bn)


def _with_backbone(model: DeepLabModelConfig, classes: int) -> DeepLab:
    if not model.backbone:
        raise UserError("model.name is DeepLabV2_Backbone_MSC but model.backbone is empty; set it, e.g. timm:resnet18")
    try:
        network = build_trunk(model.backbone, width=model.width, dropout=False, output_stride=model.output_stride)
    except ValueError as error:
        raise UserError(str(error)) from error
    channels = cast(int, network.out_channels)
    trunk: OrderedDict[str, nn.Module] = OrderedDict(backbone=LastFeatures(network))
    return DeepLab(trunk, "aspp", aspp(channels, classes, model.atrous_rates))

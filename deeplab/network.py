"""Names of published networks to modules; a new one is a line here."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.deeplab_schema import DeepLabConfig, DeepLabModelConfig
from deeplab.trunks import LAST_CHANNELS, STAGES, resnet_trunk, vgg_trunk
from models.backbones import build_trunk
from utils.errors import UserError

HIDDEN = 1024
FOV_DILATION = 12
DROPOUT = 0.5
INIT_STD = 0.01


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: parallel branches c0, c1, ..., summed.

    Args:
        branches: modules from (B, channels, h, w) to (B, classes, h, w).
    """

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"c{number}", branch)
        init_head(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) features to (B, classes, h, w) logits."""
        first, *others = (branch(x) for branch in self.children())
        for other in others:
            first = first + other
        return first


def aspp(channels: int, classes: int, rates: list[int]) -> Aspp:
    """Return DeepLab v2's ASPP: one dilated 3x3 convolution per rate."""
    return Aspp([nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in rates])


def aspp_deep(channels: int, classes: int, rates: list[int]) -> Aspp:
    """Return the ASPP of the published VGG-16 v2: each branch 3x3, 1x1, 1x1 with ReLU and element dropout between."""
    return Aspp([nn.Sequential(*_deep_branch(channels, classes, rate)) for rate in rates])


def field_of_view(channels: int, classes: int) -> nn.Sequential:
    """Return DeepLab v1's head conv6, conv7, conv8 (dilation 12, ReLU and channel dropout between)."""
    head = nn.Sequential(
        OrderedDict(
            conv6=nn.Conv2d(channels, HIDDEN, 3, padding=FOV_DILATION, dilation=FOV_DILATION),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout2d(DROPOUT),
            conv7=nn.Conv2d(HIDDEN, HIDDEN, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout2d(DROPOUT),
            conv8=nn.Conv2d(HIDDEN, classes, 1),
        )
    )
    init_head(head)
    return head


def init_head(head: nn.Module) -> None:
    """Draw weights from N(0, 0.01^2) and zero the biases (published)."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _deep_branch(channels: int, classes: int, rate: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, HIDDEN, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
        nn.Conv2d(HIDDEN, HIDDEN, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
        nn.Conv2d(HIDDEN, classes, 1),
    ]


class MultiScale(nn.Module):
    """Run `base` on an input and on smaller copies of it, with shared weights (Chen et al. 2016, multi-scale inputs).

    Args:
        base: network from (B, 3, H, W) to (B, classes, h, w).
        scales: factors of the copies, e.g. 0.5 and 0.75; empty runs the input alone.
        freeze_bn: BatchNorm stays in evaluation mode and its scale and shift are not trained, whatever mode is set.
    """

    def __init__(self, base: nn.Module, scales: list[float], *, freeze_bn: bool = True) -> None:
        super().__init__()
        self.base = base
        self.scales = scales
        self.freeze_bn = freeze_bn
        if freeze_bn:
            for norm in self._norms():
                norm.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Return logits (float32) of (B, 3, H, W) images.

        Training mode: [input, each scale at its own size, maximum of all at the input's logit size] (the input alone
        without `scales`). Evaluation mode: that maximum (B, classes, h, w).
        """
        logits = self.base(images).float()
        pyramid = [
            self.base(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)).float()
            for scale in self.scales
        ]
        maximum = logits
        for scaled in pyramid:
            resized = F.interpolate(scaled, size=logits.shape[2:], mode="bilinear", align_corners=False)
            maximum = torch.maximum(maximum, resized)
        if not self.training:
            return maximum
        return [logits, *pyramid, maximum] if pyramid else [logits]

    def train(self, mode: bool = True) -> "MultiScale":
        """Set the mode; frozen normalisation stays frozen."""
        super().train(mode)
        if self.freeze_bn:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [m for m in self.base.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


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


HEAD_WEIGHTS_FACTOR, HEAD_BIASES_FACTOR = 10.0, 20.0
FOV = "fov"


def segmentation_groups(network: MultiScale, weight_decay: float, *, untrained_fov: bool = False) -> list[dict[str, Any]]:
    """Return the published optimiser groups: trunk 1x, head weights 10x, head biases 20x without decay.

    Trainable normalisation (model.freeze_bn=false, or trunks with LayerNorm) is a further group, 1x without decay.

    Args:
        network: to train; its base is a `DeepLab`.
        weight_decay: of what decays.
        untrained_fov: leave the `fov` head out, as the published program did by mistake: it then keeps its random start.

    Raises:
        UserError: for `untrained_fov` on a network without that head.
    """
    base = network.base
    if not isinstance(base, DeepLab):
        raise TypeError(f"expected DeepLab, got {type(base)}")
    if untrained_fov and base.head_name != FOV:
        raise UserError("train.untrained_fov is for DeepLabV1_ResNet101_MSC, whose head is named fov; set it to false")
    head = [] if untrained_fov else list(base.head.named_parameters())
    trunk = [child for name, child in base.named_children() if name != base.head_name]
    norms = [p for module in trunk for p in _norm_parameters(module)]
    held = {id(p) for p in norms}
    rows: list[tuple[list[nn.Parameter], float, float]] = [
        ([p for m in trunk for p in m.parameters() if p.requires_grad and id(p) not in held], 1.0, weight_decay),
        ([p for name, p in head if name.endswith("weight")], HEAD_WEIGHTS_FACTOR, weight_decay),
        ([p for name, p in head if name.endswith("bias")], HEAD_BIASES_FACTOR, 0.0),
        *([(norms, 1.0, 0.0)] if norms else []),
    ]
    return [{"params": params, "lr_scale": factor, "weight_decay": decay} for params, factor, decay in rows]


def _norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    for child in module.modules():
        if isinstance(child, kinds):
            yield from (p for p in child.parameters(recurse=False) if p.requires_grad)

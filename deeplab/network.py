"""Names of published networks to modules; a new one is a line here."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.deeplab_schema import DeepLabConfig, DeepLabModelConfig
from models.backbones import build_trunk
from models.backbones.resnet import CAFFE as CAFFE_RESNET
from models.backbones.resnet import ResNet, caffe_resnet_name
from models.backbones.vgg16 import CAFFE as CAFFE_VGG
from models.backbones.vgg16 import Vgg16, caffe_vgg_name
from utils.data.classes import label_count
from utils.errors import UserError, user_errors

HIDDEN = 1024
TRUNK = "backbone."
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


class DeepLab(nn.Module):
    """A trunk and a head; its state has the published names of both (the hooks below translate), whatever the trunk's are.

    Args:
        backbone: a trunk; of its features only the last are used.
        head_name: aspp or fov.
        head: classifier.
        published: maps the trunk's key names to published ones where these are others: networks from Caffe, which take BGR
            grey levels minus the mean.
    """

    def __init__(
        self, backbone: nn.Module, head_name: str, head: nn.Module, published: Callable[[str], str | None] | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.head_name, self.takes_grey_levels = backbone, head_name, published is not None
        self.add_module(head_name, head)
        own = [f"{TRUNK}{key}" for key in backbone.state_dict()]
        names = {key: published(key.removeprefix(TRUNK)) if published else key for key in own}
        self.published_names = {key: name for key, name in names.items() if name is not None}
        self.register_state_dict_post_hook(_publish)
        self.register_load_state_dict_pre_hook(_unpublish)

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, classes, h, w) logits."""
        logits: Tensor = self.head(self.backbone(images)[-1])
        return logits

    def trunk_alias(self) -> dict[str, str]:
        """Return first-stage or torchvision's name of a trunk weight -> its name here, where these are other names."""
        if self.takes_grey_levels:
            return {}
        prefix = f"{TRUNK}{self.backbone.key_prefix}"
        return {key.removeprefix(prefix): key for key in self.published_names if key.startswith(prefix)}


def _publish(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    _rename(state, prefix, cast(DeepLab, module).published_names)


def _unpublish(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename(state, prefix, {name: key for key, name in cast(DeepLab, module).published_names.items()})


def _rename(state: dict[str, Tensor], prefix: str, names: Mapping[str, str]) -> None:
    """Rename the entries below `prefix` in place, in their order."""
    for key in [key for key in state if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        state[prefix + names.get(name, name)] = state.pop(key)


def build_deeplab(cfg: DeepLabConfig) -> MultiScale:
    """Build the network `cfg.model.name` with random weights.

    Raises:
        UserError: for an unknown name, or a missing optional library.
    """
    model, classes = cfg.model, label_count(cfg.dataset.num_classes)
    rates = model.atrous_rates
    builders: dict[str, Callable[[], DeepLab]] = {
        "DeepLabV2_ResNet101_MSC": lambda: _resnet(model, "aspp", lambda channels: aspp(channels, classes, rates)),
        "DeepLabV1_ResNet101_MSC": lambda: _resnet(model, "fov", lambda channels: field_of_view(channels, classes)),
        "DeepLabV2_VGG16_MSC": lambda: _vgg("aspp", lambda channels: aspp_deep(channels, classes, rates)),
        "DeepLabV1_VGG16_MSC": lambda: _vgg("aspp", lambda channels: field_of_view(channels, classes)),
        "DeepLabV2_Backbone_MSC": lambda: _with_backbone(model, classes),
    }
    if model.name not in builders:
        raise UserError(f"model.name is '{model.name}', expected one of {', '.join(builders)}")
    return MultiScale(builders[model.name](), list(model.msc_scales), freeze_bn=model.freeze_bn)


def _resnet(model: DeepLabModelConfig, head_name: str, head: Callable[[int], nn.Module]) -> DeepLab:
    trunk = ResNet(tuple(model.n_blocks), CAFFE_RESNET)
    return DeepLab(trunk, head_name, head(trunk.out_channels), caffe_resnet_name)


def _vgg(head_name: str, head: Callable[[int], nn.Module]) -> DeepLab:
    trunk = Vgg16(CAFFE_VGG)
    return DeepLab(trunk, head_name, head(trunk.out_channels), caffe_vgg_name)


def _with_backbone(model: DeepLabModelConfig, classes: int) -> DeepLab:
    if not model.backbone:
        raise UserError("model.name is DeepLabV2_Backbone_MSC but model.backbone is empty; set it, e.g. timm:resnet18")
    with user_errors():
        trunk = build_trunk(model.backbone, width=model.width, dropout=False, output_stride=model.output_stride)
    return DeepLab(trunk, "aspp", aspp(cast(int, trunk.out_channels), classes, model.atrous_rates))


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

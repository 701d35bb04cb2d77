"""Names of published networks to modules; a new one is a line here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.deeplab_schema import PLAIN, DeepLabConfig, DeepLabModelConfig
from deeplab.heads import AffinityHead, PlusHead, aspp, aspp_deep, field_of_view
from models.backbones import build_trunk
from models.backbones.resnet import BLOCKS, STAGES, ResNet, caffe_resnet_name
from models.backbones.resnet import CAFFE as CAFFE_RESNET
from models.backbones.vgg16 import CAFFE as CAFFE_VGG
from models.backbones.vgg16 import Vgg16, caffe_vgg_name
from models.layers.lean import batch_norms, freeze_norms
from utils.data.classes import label_count
from utils.errors import UserError, user_errors

TRUNK = "backbone."
BACKBONE = "DeepLabV2_Backbone_MSC"


def largest(maps: Sequence[Tensor]) -> Tensor:
    """Return the pixel-wise maximum of (B, D, ., .) maps at the first one's size."""
    maximum = maps[0]
    for other in _at_first_size(maps)[1:]:
        maximum = torch.maximum(maximum, other)
    return maximum


def _at_first_size(maps: Sequence[Tensor]) -> list[Tensor]:
    size = maps[0].shape[2:]
    return [maps[0], *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:])]


def scaled(images: Tensor, factor: float) -> Tensor:
    """Return (B, D, H, W) images scaled by a factor, bilinearly; a side that would vanish stays one pixel."""
    if min(images.shape[2:]) * factor < 1:
        sides = [max(1, int(side * factor)) for side in images.shape[2:]]
        return F.interpolate(images, size=sides, mode="bilinear", align_corners=False)
    return F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)


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
            freeze_norms(self.base)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Return logits (float32) of (B, 3, H, W) images.

        Training mode: [input, each scale at its own size, maximum of all at the input's logit size] (the input alone
        without `scales`). Evaluation mode: that maximum (B, classes, h, w).
        """
        views = [self.base(view).float() for view in self._views(images, self.scales)]
        maximum = largest(views)
        if not self.training:
            return maximum
        return [*views, maximum] if self.scales else views

    def _views(self, images: Tensor, scales: Sequence[float]) -> list[Tensor]:
        """Return the input and its copies."""
        resized = [scaled(images, s) for s in scales]
        return [images, *resized]

    def train(self, mode: bool = True) -> "MultiScale":
        """Set the mode; frozen normalisation stays frozen."""
        super().train(mode)
        for norm in batch_norms(self.base) if self.freeze_bn else []:
            norm.eval()
        return self


class DeepLab(nn.Module):
    """A trunk and a head; its state has the published names of both (the hooks below translate), whatever the trunk's are.

    Args:
        parts: of these it is made.
    """

    def __init__(self, parts: "Parts") -> None:
        super().__init__()
        self.backbone, self.head_name, self.takes_grey_levels = parts.trunk, parts.head_name, parts.published is not None
        self.add_module(parts.head_name, parts.make_head())
        own = [f"{TRUNK}{key}" for key in self.backbone.state_dict()]
        names = {key: parts.published(key.removeprefix(TRUNK)) if parts.published else key for key in own}
        self.published_names = {key: name for key, name in names.items() if name is not None}
        self.register_state_dict_post_hook(_publish)
        self.register_load_state_dict_pre_hook(_unpublish)

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.head_name)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """Return the classifiers by name, the one that stands in every method first."""
        return {name: child for name, child in self.named_children() if name.startswith(self.head_name)}

    def affinity_parameters(self) -> list[nn.Parameter]:
        """Return what is trained beside trunk and classifiers."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, classes, h, w) logits."""
        levels = self.backbone(images)
        logits: Tensor = self.head(levels if isinstance(self.head, PlusHead) else levels[-1])
        return logits

    def trunk_alias(self) -> dict[str, str]:
        """Return first-stage or torchvision's name of a trunk weight -> its name here, where these are other names."""
        if self.takes_grey_levels:
            return {}
        prefix = f"{TRUNK}{self.backbone.key_prefix}"
        return {key.removeprefix(prefix): key for key in self.published_names if key.startswith(prefix)}


class ExpertMaps(NamedTuple):
    """What CDL's heads say at one scale: logits (B, classes, h, w) of each, and features (B or 2B, 128, h, w) to compare.

    CDL-e's features are those of the images, then of their strongly augmented copies.
    """

    logits: list[Tensor]
    features: Tensor


class Experts(DeepLab):
    """Credible dual experts (Zhang et al., IJCV 2023): classifiers that err differently, and an affinity head.

    CDL-e has a third classifier, for strongly augmented copies of the images; it is the one that is tested. The affinity head
    takes the four stages of the published ResNet-101; of other trunks the last features and the side features before them.

    Args:
        parts: of these it is made.
        extended: CDL-e.
    """

    affinity_name = "affinity_3rd"

    def __init__(self, parts: "Parts", *, extended: bool) -> None:
        super().__init__(parts)
        self.extended = extended
        names = [f"{parts.head_name}_2nd", *([f"{parts.head_name}_3rd"] if extended else [])]
        for name in names:
            self.add_module(name, parts.make_head())
        self.tested_name = names[-1] if extended else parts.head_name
        trunk = cast(Any, parts.trunk)
        self.add_module(self.affinity_name, AffinityHead([*trunk.side_channels, trunk.out_channels], dropout=extended))

    @property
    def affinity(self) -> AffinityHead:
        return cast(AffinityHead, self.get_submodule(self.affinity_name))

    def affinity_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.affinity.parameters() if p.requires_grad]

    def opinions(self, images: Tensor) -> ExpertMaps:
        """Return what labels are refreshed by, of (B, 3, H, W) images: logits of the two experts, features (B, 128, h, w)."""
        levels = self.backbone(images)
        first, second, *_ = self.heads.values()
        return ExpertMaps([first(levels[-1]), second(levels[-1])], self.affinity(levels))

    def forward(self, images: Tensor, everything: bool = False) -> Any:
        """Return (B, classes, h, w) logits of the tested classifier.

        Args:
            images: (B, 3, H, W); with `everything` of CDL-e (2B, 3, H, W), the second half the copies.
            everything: return `ExpertMaps` instead.
        """
        levels = self.backbone(images)
        if not everything:
            return self.get_submodule(self.tested_name)(levels[-1])
        clean, *strong = levels[-1].chunk(2) if self.extended else [levels[-1]]
        first, second, *third = self.heads.values()
        logits = [first(clean), second(clean), *(head(features) for head, features in zip(third, strong, strict=True))]
        return ExpertMaps([each.float() for each in logits], self.affinity(levels).float())


class MultiScaleExperts(MultiScale):
    """`MultiScale` of experts; it is trained at scales of its own.

    Args:
        base: experts.
        scales: of the copies when tested (published: 0.5 and 0.75, whatever it was trained at).
        freeze_bn: as of `MultiScale`; the affinity head's keep their statistics too, but learn scale and shift.
        training_scales: of the copies when trained.
        train_affinity: the affinity head learns. Without, it is a random projection (CDL-e as published).
        divisor: of the tested logits, a temperature in the dense CRF and in saved logits (published: 2).
    """

    def __init__(
        self,
        base: Experts,
        scales: list[float],
        *,
        freeze_bn: bool,
        training_scales: list[float],
        train_affinity: bool,
        divisor: float,
    ) -> None:
        super().__init__(base, scales, freeze_bn=freeze_bn)
        self.training_scales, self.divisor = training_scales, divisor
        self.extended = base.extended
        base.affinity.requires_grad_(train_affinity)

    def forward(self, images: Tensor, strong: Tensor | None = None) -> Any:
        """Return the tested logits (B, classes, h, w) float32 of (B, 3, H, W) images; in training mode `ExpertMaps`.

        Args:
            images: (B, 3, H, W).
            strong: strongly augmented copies for CDL-e's training, likewise; None: the images themselves.

        Returns:
            in training mode a list, of the input and of each scale, and last (with scales) the largest logits of all and the
            mean features, at the input's logit size.
        """
        if not self.training:
            return cast(Tensor, super().forward(images)) / self.divisor
        if self.extended:
            images = torch.cat([images, images if strong is None else strong])
        found: list[ExpertMaps] = [self.base(view, True) for view in self._views(images, self.training_scales)]
        if not self.training_scales:
            return found
        logits = [largest(maps) for maps in zip(*(each.logits for each in found), strict=True)]
        features = torch.stack(_at_first_size([each.features for each in found])).mean(dim=0)
        return [*found, ExpertMaps(logits, features)]


def _publish(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    _rename(state, prefix, cast(DeepLab, module).published_names)


def _unpublish(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename(state, prefix, {name: key for key, name in cast(DeepLab, module).published_names.items()})


def _rename(state: dict[str, Tensor], prefix: str, names: Mapping[str, str]) -> None:
    """Rename the entries below `prefix` in place, in their order."""
    for key in [key for key in state if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        state[prefix + names.get(name, name)] = state.pop(key)


class Parts(NamedTuple):
    """What a network is made of.

    `published` maps the trunk's key names to published ones where these are others: networks from Caffe, which take BGR grey
    levels minus the mean.
    """

    trunk: nn.Module
    head_name: str
    make_head: Callable[[], nn.Module]
    published: Callable[[str], str | None] | None = None


def build_deeplab(cfg: DeepLabConfig) -> MultiScale:
    """Build `cfg.model.name` of method `cfg.method` with random weights. Raises UserError for an unknown name."""
    parts, scales, freeze_bn = _parts(cfg), list(cfg.model.msc_scales), cfg.model.freeze_bn
    if cfg.model.checkpoint_activations:
        if not hasattr(parts.trunk, "checkpoint_activations"):
            raise UserError("model.checkpoint_activations is for ResNets, this trunk is none; leave it false")
        cast(Any, parts.trunk).checkpoint_activations = True
    if cfg.method == PLAIN:
        return MultiScale(DeepLab(parts), scales, freeze_bn=freeze_bn)
    if isinstance(parts.make_head(), PlusHead):
        raise UserError(f"model.head=v3plus is for method=plain, but method is {cfg.method}; set model.head=aspp")
    extended = cfg.method == "cdl_e"
    base = Experts(parts, extended=extended)
    return MultiScaleExperts(
        base,
        scales,
        freeze_bn=freeze_bn,
        training_scales=list(cfg.thresholds.scales),
        train_affinity=cfg.cdl.train_affinity or not extended,
        divisor=cfg.cdl.output_divisor,
    )


def _parts(cfg: DeepLabConfig) -> Parts:
    model = cfg.model
    if model.name not in NETWORKS:
        raise UserError(f"model.name is '{model.name}', expected one of {', '.join(NETWORKS)}")
    return NETWORKS[model.name](model, label_count(cfg.dataset.num_classes), cfg.method == PLAIN)


def trunk_name(model: DeepLabModelConfig) -> str:
    """Return the name of the network's trunk, as `model.backbone` has it; `resnet` for blocks nobody publishes."""
    if model.name == BACKBONE:
        return model.backbone
    depth = next((str(depth) for depth, blocks in BLOCKS.items() if list(blocks) == model.n_blocks), "")
    return "vgg16" if "VGG16" in model.name else f"resnet{depth}"


def _resnet(model: DeepLabModelConfig, head_name: str, head: Callable[[int], nn.Module], plain: bool) -> Parts:
    trunk = ResNet(tuple(model.n_blocks), CAFFE_RESNET if plain else replace(CAFFE_RESNET, outputs=STAGES))
    return Parts(trunk, head_name, lambda: head(trunk.out_channels), caffe_resnet_name)


def _vgg(head: Callable[[int], nn.Module], plain: bool) -> Parts:
    trunk = Vgg16(CAFFE_VGG if plain else replace(CAFFE_VGG, outputs=("pool3", "pool4", "pool5")))
    return Parts(trunk, "aspp", lambda: head(trunk.out_channels), caffe_vgg_name)


def _with_backbone(model: DeepLabModelConfig, classes: int, plain: bool) -> Parts:
    if not model.backbone:
        raise UserError("model.name is DeepLabV2_Backbone_MSC but model.backbone is empty; set it, e.g. timm:resnet18")
    with user_errors():
        plus = model.head == "v3plus"
        trunk = build_trunk(model.backbone, width=model.width, dropout=False, output_stride=model.output_stride, shallow=plus)
    if plus:
        shallow, deep = cast(Any, trunk).side_channels[0], cast(int, trunk.out_channels)
        return Parts(trunk, "decoder", lambda: PlusHead(shallow, deep, classes, model.atrous_rates))
    return Parts(trunk, "aspp", lambda: aspp(cast(int, trunk.out_channels), classes, model.atrous_rates))


# Published names -> (settings, classes with background, whether the method is plain) -> parts.
NETWORKS: dict[str, Callable[[DeepLabModelConfig, int, bool], Parts]] = {
    "DeepLabV2_ResNet101_MSC": lambda m, classes, plain: _resnet(m, "aspp", lambda d: aspp(d, classes, m.atrous_rates), plain),
    "DeepLabV1_ResNet101_MSC": lambda m, classes, plain: _resnet(m, FOV, lambda d: field_of_view(d, classes), plain),
    "DeepLabV2_VGG16_MSC": lambda m, classes, plain: _vgg(lambda d: aspp_deep(d, classes, m.atrous_rates), plain),
    "DeepLabV1_VGG16_MSC": lambda m, classes, plain: _vgg(lambda d: field_of_view(d, classes), plain),
    BACKBONE: _with_backbone,
}

HEAD_WEIGHTS_FACTOR, HEAD_BIASES_FACTOR = 10.0, 20.0
FOV = "fov"


def segmentation_groups(network: MultiScale, weight_decay: float, *, untrained_fov: bool = False) -> list[dict[str, Any]]:
    """Return the published optimiser groups: trunk 1x, head weights 10x, head biases 20x without decay, and with these the
    affinity head of CDL-b.

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
    head = [] if untrained_fov else [row for part in base.heads.values() for row in part.named_parameters()]
    trunk = [base.backbone]
    norms = [p for module in trunk for p in _norm_parameters(module)]
    held = {id(p) for p in norms}
    rows: list[tuple[list[nn.Parameter], float, float]] = [
        ([p for m in trunk for p in m.parameters() if p.requires_grad and id(p) not in held], 1.0, weight_decay),
        ([p for name, p in head if name.endswith("weight")], HEAD_WEIGHTS_FACTOR, weight_decay),
        ([p for name, p in head if name.endswith("bias")] + base.affinity_parameters(), HEAD_BIASES_FACTOR, 0.0),
        *([(norms, 1.0, 0.0)] if norms else []),
    ]
    return [{"params": params, "lr_scale": factor, "weight_decay": decay} for params, factor, decay in rows]


def _norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    for child in module.modules():
        if isinstance(child, kinds):
            yield from (p for p in child.parameters(recurse=False) if p.requires_grad)

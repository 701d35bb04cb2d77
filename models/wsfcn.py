"""WS-FCN: one network names an image's classes, segments it, refines its own masks and learns from them, in one run.

The trunk's deep features get context (FCA), move onto the shallow grid along a learned flow, and exchange with the shallow
ones (SF2) before three convolutions give class logits. Image scores are pooled from the masks (nGWP and a focal size penalty),
pseudo labels come from the masks refined by PAMR. `models/onestage.py` (Araslanov and Roth, CVPR 2020) has the same training
with another decoder; `models/bsl.py` is its baseline.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.fields import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, UNIT, key
from configs.schema import Config, SampleConfig
from models.backbones import build_trunk
from models.cam_net import Trunk
from models.layers.decoders import Align, FeatureFusion, FlexibleContext, StochasticGate, resize, segmentation_head, size_of
from models.layers.lean import batch_norms, freeze_norms
from models.layers.mask_losses import (
    IGNORED,
    balanced_cross_entropy,
    class_scores,
    keep_present,
    multilabel_hinge,
    relative_labels,
    with_background,
)
from models.method import Batch, Method, Phase, Picture, StepOutput, classify_first
from models.refiners.pamr import PAMR, PamrConfig

PRETRAINING, SELF_SUPERVISION = "classification", "learning from refined masks"
# Images of a batch that pictures are shown of.
SHOWN = 8
CLS_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmargin": F.multilabel_soft_margin_loss,
    "hinge": multilabel_hinge,
}


@dataclass
class SingleStageSettings(SampleConfig):
    """Section `wsfcn`: the sample, the network and its losses. Defaults are the published VOC values."""

    decoder_width: int = key(256, "channels of the decoder (published: 256)", within=COUNT)
    gate_psi: float = key(0.3, "share of shallow features behind the stochastic gate", within=BELOW_ONE)
    cls_loss: str = key("softmargin", "image classification loss", tuple(CLS_LOSSES))
    focal_power: float = key(3.0, "power of the focal size penalty", within=NOT_NEGATIVE)
    focal_lambda: float = key(0.01, "its lambda (published: 0.01, COCO 0.1)", within=POSITIVE)
    mask_weight: float = key(1.0, "weight of the loss against pseudo labels, after train.classify_epochs", within=NOT_NEGATIVE)
    floor: float = key(0.2, "pseudo labels: least mask value of a labelled pixel (published: 0.2, COCO 0.1)", within=UNIT)
    background_factor: float = key(0.7, "pseudo labels: least share of the background mask's maximum (COCO 0.8)", within=UNIT)
    foreground_factor: float = key(0.6, "pseudo labels: least share of a class mask's maximum", within=UNIT)
    background_score: float = key(0.1, "method=bsl: score of background beside the CAMs", within=UNIT)
    bias_factor: float = key(2.0, "learning-rate factor of the trunk's biases (published: 2, ResNets 1)", within=NOT_NEGATIVE)
    head_bias_factor: float = key(
        40.0, "learning-rate factor of new biases (published: 40, ResNets 10; 1-Stage 20, 10)", within=NOT_NEGATIVE
    )
    pamr: PamrConfig = field(default_factory=PamrConfig)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        return [
            *super().rules(name),
            (self.patches == 0, f"{name}patches is {self.patches}, expected 0: this method sees whole views only"),
        ]


class Masks(NamedTuple):
    """What a single-stage network says of B images, on its own grid.

    scores (B, C), of the classes; masks (B, C + 1, h, w) in [0, 1], background last; logits: of the masks, likewise, or None
    where they are not made from logits.
    """

    scores: Tensor
    masks: Tensor
    logits: Tensor | None


class SingleStageNetwork(nn.Module):
    """Base of the networks: trunk, published names, what is fixed and which group a parameter belongs to.

    A subclass adds its decoder under the published names, and `look`.

    Class attributes:
        fixed_norms: modules whose BatchNorm keeps its running statistics; its scale and shift are trained all the same
            (published).
    """

    fixed_norms: ClassVar[tuple[str, ...]] = ()

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        model, self.settings = cfg.model, cast(SingleStageSettings, cfg.settings)
        self.num_classes = cfg.data.num_classes
        self.freeze_bn = model.freeze_bn
        self.backbone = build_trunk(
            model.backbone, width=model.width, dropout=model.dropout, output_stride=model.output_stride, shallow=True
        )
        if model.freeze_stem:
            for module in self.trunk.stem:
                module.requires_grad_(False)
        if model.freeze_bn:
            freeze_norms(self.backbone)

    @property
    def trunk(self) -> Trunk:
        return cast(Trunk, self.backbone)

    @property
    def shallow_channels(self) -> int:
        """Return the channels of the trunk's shallow features."""
        return self.trunk.side_channels[0]

    def look(self, images: Tensor) -> Masks:
        """Return scores and masks of (B, 3, H, W) normalised RGB images."""
        raise NotImplementedError

    def forward(self, images: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return masks (B, C + 1, H, W) at the images' size and scores (B, C), as `models.method.ScoreNetwork` says.

        With `channels` (indices in [0, C], C is background, which scores 0) only theirs.
        """
        found = self.look(images)
        scores, masks = found.scores, found.masks
        if channels is not None:
            scores, masks = F.pad(scores, (0, 1))[:, channels], masks[:, channels]
        return resize(masks, size_of(images)), scores

    def train(self, mode: bool = True) -> "SingleStageNetwork":
        """Switch dropout, the gate and BatchNorm, but for what is fixed."""
        super().train(mode)
        fixed = [self.get_submodule(name) for name in self.fixed_norms]
        for module in [self.backbone, *fixed] if self.freeze_bn else fixed:
            for norm in batch_norms(module):
                norm.eval()
        return self

    def optimizer_groups(self, head_factor: float) -> list[dict[str, Any]]:
        """Return the published groups: trunk's weights, its biases, new weights, new biases; biases do not decay."""
        groups: list[list[nn.Parameter]] = [[], [], [], []]
        old = {id(p) for p in self.backbone.parameters()}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[2 * (id(parameter) not in old) + name.endswith("bias")].append(parameter)
        factors = (1.0, self.settings.bias_factor, head_factor, self.settings.head_bias_factor)
        return [
            {"params": parameters, "lr_scale": factor, **({"weight_decay": 0.0} if number % 2 else {})}
            for number, (parameters, factor) in enumerate(zip(groups, factors, strict=True))
        ]

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys to the published ones."""
        return {self._published_name(key): value for key, value in state.items()}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename published keys, the trunk's own or ours; unknown keys stay as they are, for the loader to report."""
        own = self.state_dict()
        names = {key.removeprefix("backbone."): key for key in own} | {self._published_name(key): key for key in own}
        return {names.get(key, key): value for key, value in state.items()}

    def _published_name(self, key: str) -> str:
        if not key.startswith("backbone."):
            return key
        name = key.removeprefix("backbone.").removeprefix(self.trunk.key_prefix)
        rename = getattr(self.backbone, "published_name", str)
        return str(rename(name))


class WsfcnNetwork(SingleStageNetwork):
    """FCA on the deep features, flow alignment, SF2, stochastic gate, head."""

    fixed_norms = ("fca",)

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        width = self.settings.decoder_width
        self.align1 = Align(self.shallow_channels, width, max(1, width // 2))
        self.sf2 = FeatureFusion(self.shallow_channels, width)
        self.fca = FlexibleContext(self.trunk.out_channels, width)
        self.gate = StochasticGate(self.settings.gate_psi)
        self._aff = PAMR(self.settings.pamr)
        self.last_conv = segmentation_head(width, self.num_classes)

    def look(self, images: Tensor) -> Masks:
        """Return scores and masks on the shallow grid, a quarter of the images' size."""
        shallow, deep = self.backbone(images)
        shallow, deep = self.sf2(shallow, self.align1(shallow, self.fca(deep)))
        return self.pooled(self.gate(deep, shallow))

    def pooled(self, features: Tensor) -> Masks:
        """Classify pixels, and the image by its masks."""
        logits = with_background(self.last_conv(features).float())
        scores = class_scores(logits, power=self.settings.focal_power, floor=self.settings.focal_lambda)
        return Masks(scores, logits.softmax(dim=1), logits)


class SelfSupervision(nn.Module):
    """One step: classification by the masks, and the masks against what PAMR makes of them.

    Args:
        network: its `_aff` refines.
        cfg: for the normalisation of images, which PAMR sees in [0, 1].
        mask_weight: of the loss against pseudo labels; 0: it is computed and logged only, as published in pre-training.
    """

    def __init__(self, network: SingleStageNetwork, cfg: Config, mask_weight: float) -> None:
        super().__init__()
        self.network, self.settings, self.mask_weight = network, network.settings, mask_weight
        self.mean, self.std = list(cfg.data.mean), list(cfg.data.std)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the classification loss plus, with a weight, the mean over the images of the mask loss."""
        images, labels = batch["images"], batch["labels"]
        found = self.network.look(images)
        loss = cls = CLS_LOSSES[self.settings.cls_loss](found.scores, labels)
        losses = {"cls": cls, "fg": _foreground_share(found.masks, labels)}
        views = {"masks": found.masks.detach()}
        if found.logits is not None:
            with torch.no_grad():
                views["refined"] = keep_present(self._refined(images, found.masks), labels)
                views["pseudo"] = relative_labels(
                    views["refined"],
                    floor=self.settings.floor,
                    background=self.settings.background_factor,
                    foreground=self.settings.foreground_factor,
                )
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.mask_weight > 0):
                losses["mask"] = balanced_cross_entropy(found.logits, views["pseudo"], labels).mean()
            if self.mask_weight > 0:
                loss = cls + self.mask_weight * losses["mask"]
        losses = {"loss": loss, **losses}
        return {
            "loss": loss,
            "losses": {name: value.detach() for name, value in losses.items()},
            "views": views,
            "scores": found.scores.detach(),
        }

    def _refined(self, images: Tensor, masks: Tensor) -> Tensor:
        # Not made on the device: that would wait for the work queued there.
        std, mean = torch.tensor([self.std, self.mean]).to(images.device, non_blocking=True)[..., None, None]
        pictures = resize((images.float() * std + mean).clamp_(0, 1), size_of(masks))
        return resize(self.network.get_submodule("_aff")(pictures, masks.detach().float()), size_of(images))


def _foreground_share(masks: Tensor, labels: Tensor) -> Tensor:
    """Return the mean share of the picture a present class's mask has (logged only)."""
    shares = (masks[:, :-1].detach().mean((2, 3)) * labels).sum(dim=1)
    return (shares / labels.sum(dim=1).clamp_min(1)).mean()


class Wsfcn(Method):
    """Classification for `train.classify_epochs`, then also the loss against pseudo labels; one rate throughout (published)."""

    name = "wsfcn"
    Settings = SingleStageSettings
    section = "wsfcn"
    Network: ClassVar[type[SingleStageNetwork]] = WsfcnNetwork

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.network = self.Network(cfg)

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> nn.Module:
        """Build the network; its score maps are masks, which `cam.merge=mean` averages."""
        if cfg.cam.merge != "mean":
            raise ValueError(f"cam.merge is {cfg.cam.merge}, but the maps of method={cls.name} are masks; set cam.merge=mean")
        return cls.Network(cfg)

    def phases(self) -> list[Phase]:
        """Return pre-training and self-supervision, which differ in the weight of one loss."""
        return classify_first(self.cfg.train, PRETRAINING, SELF_SUPERVISION)

    def step_module(self, phase: Phase) -> nn.Module:
        """Return the step; pre-training gives the mask loss no weight."""
        weight = 0.0 if phase.name == PRETRAINING else cast(SingleStageSettings, self.cfg.settings).mask_weight
        return SelfSupervision(self.network, self.cfg, weight)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the published groups, see `SingleStageNetwork.optimizer_groups`."""
        return self.network.optimizer_groups(self.cfg.train.lr_head_factor)

    def validation_score(self, means: Mapping[str, float]) -> float:
        """Return 1 - total loss, as published (its mask part depends on the network's own pseudo labels)."""
        return 1 - means["loss"]

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return of a batch's first images: picture, masks of present classes, refined masks, pseudo labels."""
        images, labels = batch["images"][:SHOWN], batch["labels"][:SHOWN]
        masks = resize(keep_present(views["masks"][:SHOWN], labels), size_of(images))
        pictures = {"image": Picture("image", images), "cam": Picture("masks", masks, images)}
        if "pseudo" in views:
            one_hot = F.one_hot(views["pseudo"][:SHOWN], IGNORED + 1)[..., : masks.shape[1]].permute(0, 3, 1, 2)
            pictures["refined"] = Picture("masks", views["refined"][:SHOWN], images)
            pictures["pseudo"] = Picture("masks", one_hot.float(), images)
        return pictures

"""CRT: a classifying transformer, drawn towards the class maps of a convolutional network that learns beside it (2022).

Both classify the image by the mean of a map of class logits. From the second epoch on an L1 term pulls the two maps together.
The transformer sees overlapping tiles and runs its blocks three times ("progressive"); CAMs are its maps weighed by what its
class token looked at. The convolutional branch only teaches; its own CAMs can be made too (`cam.network=cnn`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.fields import COUNT, NOT_NEGATIVE, SIDE, key
from configs.schema import Config, SampleConfig
from models.backbones import build_trunk
from models.cam_net import Trunk
from models.layers.lean import batch_norms, freeze_norms
from models.layers.tiles import cut_tiles, merge_tiles, pad_to_tiles, padded_side
from models.layers.vit import VisionTransformer, VitConfig
from models.method import Batch, Method, Phase, Picture, StepOutput, classify_first

CLASSIFICATION, REFINEMENT = "classification", "refinement of the transformer"
TRANSFORMER_KEY, CNN_KEY = "state_dict", "cnn_dict"


@dataclass
class CrtVitConfig(VitConfig):
    """Section `crt.vit`."""

    tile_stride: int = key(112, "pixels from tile to tile; divides tile, a multiple of patch", within=SIDE)
    passes: int = key(3, "runs of all blocks, with the same weights (published: 3)", within=COUNT)
    outer_residual: bool = key(True, "a pass adds its input to its result, beside the blocks' own shortcuts (published)")
    padding: str = key(
        "published",
        "inference: pictures grow right and below until tiles cover them: published: by up to a whole tile_stride, also where "
        "they fit already, which moves the published CAMs; exact: where they must",
        ("published", "exact"),
    )
    tiles_at_once: int = key(96, "inference: tiles per forward; bounds the memory of large pictures", within=COUNT, free=True)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        stride = f"{name}tile_stride is {self.tile_stride}"
        return [
            *super().rules(name),
            (self.tile % self.tile_stride == 0, f"{stride}, expected a divisor of {name}tile ({self.tile})"),
            (self.tile_stride % self.patch == 0, f"{stride}, expected a multiple of {name}patch ({self.patch})"),
        ]


@dataclass
class CrtSettings(SampleConfig):
    """Section `crt`: the sample, both branches, and what binds them. Defaults are the released program's."""

    vit: CrtVitConfig = field(default_factory=CrtVitConfig)
    cnn_frozen: list[str] = key(
        ["layer1", "layer2"],
        "modules of model.backbone that keep their weights, beside its stem (published: no gradient there)",
    )
    cnn_norm_scale: bool = key(True, "BatchNorm's scale and shift learn, though its statistics are fixed (published)")
    l1_weight: float = key(
        0.1, "weight of the L1 term after train.classify_epochs (released: 0.1; its older build: 0.5)", within=NOT_NEGATIVE
    )
    vit_weight: float = key(
        1.0, "weight of the transformer's own classification then (released: 1; its older build: 0)", within=NOT_NEGATIVE
    )
    l1_pulls: str = key("both", "branches the L1 term gives a gradient to (published: both)", ("both", "vit", "cnn"))
    loss: str = key(
        "soft_margin",
        "classification: soft_margin: each class for itself; cross_entropy: of the one class that an image has (CUB)",
        ("soft_margin", "cross_entropy"),
    )
    l1_size: str = key("image", "size the L1 term compares maps at: image (published on VOC), map (on CUB)", ("image", "map"))
    l1_classes: str = key("all", "all: absent classes' logits are pulled together too (published); present", ("all", "present"))

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        vit, side = self.vit, self.input_size
        return [
            *super().rules(name),
            (self.patches == 0, f"{name}patches is {self.patches}, expected 0: this method sees whole views only"),
            (
                padded_side(side, vit.tile, vit.tile_stride, exact=True) == side,
                f"{name}input_size is {side}, but tiles of {vit.tile} every {vit.tile_stride} pixels leave a rest",
            ),
            (
                self.vit_weight > 0 or (self.l1_weight > 0 and self.l1_pulls != "cnn"),
                f"{name}vit_weight is 0, so the L1 term must teach the transformer: set {name}l1_weight and {name}l1_pulls=vit",
            ),
        ]


class TransformerBranch(nn.Module):
    """DeiT and a 3 x 3 convolution that gives class logits a patch."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.num_classes = cfg.data.num_classes
        self.vit = cast(CrtSettings, cfg.settings).vit
        self.backbone = VisionTransformer(self.vit, self.vit.passes, outer_residual=self.vit.outer_residual)
        self.backbone.checkpoint_activations = cfg.model.checkpoint_activations
        self.head = nn.Conv2d(self.vit.width, self.num_classes, 3, padding=1)
        self.step = self.vit.tile_stride // self.vit.patch

    def class_maps(self, images: Tensor) -> Tensor:
        """Return class logits (B, C, H / patch, W / patch) of images that tiles cover without rest."""
        tiles, grid = cut_tiles(images, self.vit.tile, self.vit.tile_stride)
        maps = self.head(self._patches(self.backbone(tiles)[0]))
        return merge_tiles(maps.float(), grid, self.step)

    def forward(self, images: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return CAMs and class logits, as `models.method.ScoreNetwork` says; background scores 0.

        Args:
            images: (B, 3, H, W) normalised RGB of any size.
            channels: score channels wanted (indices in [0, C]); None: all.

        Returns:
            (B, D, ceil(H / patch), ceil(W / patch)): logits of patches times the class token's attention to them, summed over
            all runs of all blocks, not cut at 0; logits: means over the image, of the classes or the wanted channels.
        """
        vit, (height, width) = self.vit, images.shape[2:]
        padded = pad_to_tiles(images, vit.tile, vit.tile_stride, exact=vit.padding == "exact")
        tiles, grid = cut_tiles(padded, vit.tile, vit.tile_stride)
        seen = [self._tile_cams(part, channels) for part in tiles.split(vit.tiles_at_once)]
        merged = merge_tiles(torch.cat(seen), grid, self.step)[:, :, : -(-height // vit.patch), : -(-width // vit.patch)]
        cams, logits = merged.chunk(2, dim=1)
        return cams, _of_classes(logits.mean(dim=(2, 3)), channels)

    def _tile_cams(self, tiles: Tensor, channels: Tensor | None) -> Tensor:
        """Return CAMs (n, D, g, g) of tiles and, behind them, their logits."""
        tokens, attention = self.backbone(tiles, look=True)
        weight, bias = (_with_background(part, channels) for part in (self.head.weight, cast(Tensor, self.head.bias)))
        logits = F.conv2d(self._patches(tokens), weight, bias, padding=1).float()
        return torch.cat([logits * attention[:, None], logits], dim=1)

    def _patches(self, tokens: Tensor) -> Tensor:
        """Return the patches' tokens as maps (n, width, g, g)."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (self.backbone.grid, self.backbone.grid))

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys to DeiT's."""
        return {key.removeprefix("backbone."): value for key, value in state.items()}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename DeiT's keys (or keep our own); unknown keys stay as they are, for the loader to report."""
        own = {key.removeprefix("backbone."): key for key in self.state_dict()}
        return {own.get(key, key): value for key, value in state.items()}


def _with_background(weight: Tensor, channels: Tensor | None) -> Tensor:
    """Return a classifier's weights, one output a row, and a row for background that gives 0; of these the wanted ones."""
    rows = torch.cat([weight, torch.zeros_like(weight[:1])])
    return rows if channels is None else rows[channels]


def _of_classes(logits: Tensor, channels: Tensor | None) -> Tensor:
    return logits[:, :-1] if channels is None else logits


class CnnBranch(nn.Module):
    """A trunk and a 1 x 1 convolution that gives class logits a cell.

    Its BatchNorm keeps its statistics while `model.freeze_bn`; what is frozen gets no gradient, so it does not decay either.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        model, settings = cfg.model, cast(CrtSettings, cfg.settings)
        self.num_classes, self.freeze_bn = cfg.data.num_classes, model.freeze_bn
        self.backbone = build_trunk(
            model.backbone, width=model.width, dropout=model.dropout, output_stride=model.output_stride, shallow=True
        )
        trunk = cast(Trunk, self.backbone)
        if hasattr(trunk, "checkpoint_activations"):
            cast(Any, trunk).checkpoint_activations = model.checkpoint_activations
        self.classifier = nn.Conv2d(trunk.out_channels, self.num_classes, 1, bias=False)
        if model.freeze_bn and not settings.cnn_norm_scale:
            freeze_norms(self.backbone)
        for module in [*(trunk.stem if model.freeze_stem else []), *self._named(settings.cnn_frozen)]:
            module.requires_grad_(False)

    def _named(self, names: Sequence[str]) -> list[nn.Module]:
        known = dict(self.backbone.named_children())
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"crt.cnn_frozen names {unknown[0]}, but the trunk's parts are {', '.join(known)}")
        return [known[name] for name in names]

    def class_maps(self, images: Tensor) -> Tensor:
        """Return class logits (B, C, h, w)."""
        maps: Tensor = self.classifier(self.backbone(images)[-1])
        return maps.float()

    def forward(self, images: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return class logits (B, D, h, w), not cut at 0, and their means; arguments as of the transformer."""
        maps = F.conv2d(self.backbone(images)[-1], _with_background(self.classifier.weight, channels)).float()
        return maps, _of_classes(maps.mean(dim=(2, 3)), channels)

    def train(self, mode: bool = True) -> "CnnBranch":
        """Switch dropout, and BatchNorm where it is not fixed."""
        super().train(mode)
        for norm in batch_norms(self) if self.freeze_bn else []:
            norm.eval()
        return self

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys to the published ones, of a ResNet several for one: the program registers its modules repeatedly."""
        return {name: value for key, value in state.items() for name in self._published_names(key)}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename published keys, the trunk's own or ours; unknown keys stay as they are, for the loader to report.

        Raises:
            ValueError: where several names of one tensor hold different values.
        """
        own, prefix = self.state_dict(), cast(Trunk, self.backbone).key_prefix
        names = {name: key for key in own for name in self._published_names(key)}
        names |= {key.removeprefix("backbone.").removeprefix(prefix): key for key in own} | {key: key for key in own}
        found: dict[str, Tensor] = {}
        for name, value in state.items():
            key = names.get(name, name)
            if found.get(key, value) is not value and not torch.equal(found[key], value):
                raise ValueError(f"{name} differs from another name of the same weights; the file is damaged, get it again")
            found[key] = value
        return found

    def _published_names(self, key: str) -> list[str]:
        """Return e.g. resnet50.layer3.0.conv1.weight, stage3.0.0.conv1.weight and backbone.2.0.0.conv1.weight."""
        module, _, leaf = key.partition(".")
        if module == "classifier":
            return [key, f"newly_added.0.{leaf}"]
        part, _, rest = leaf.partition(".")
        if part not in PUBLISHED_STAGES:
            return [key]
        stage, position = PUBLISHED_STAGES[part]
        return [f"resnet50.{leaf}", f"stage{stage}.{position}.{rest}", f"backbone.{stage - 1}.{position}.{rest}"]


# A ResNet's parts -> (stage, position in it) of the published module.
PUBLISHED_STAGES = {
    "conv1": (1, 0), "bn1": (1, 1), "layer1": (1, 4), "layer2": (2, 0), "layer3": (3, 0), "layer4": (4, 0)
}  # fmt: skip


def one_class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits (B, C) and the one class of each image, labels (B, C)."""
    return F.cross_entropy(logits, labels.argmax(dim=1))


CLASSIFY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft_margin": F.multilabel_soft_margin_loss,
    "cross_entropy": one_class_loss,
}


class Refinement(nn.Module):
    """One step of both branches.

    Args:
        transformer, cnn: the branches.
        settings: section `crt`.
        bound: whether the L1 term counts; else both only classify.
    """

    def __init__(self, transformer: TransformerBranch, cnn: CnnBranch, settings: CrtSettings, *, bound: bool) -> None:
        super().__init__()
        self.transformer, self.cnn, self.settings, self.bound = transformer, cnn, settings, bound

    def forward(self, batch: Batch) -> StepOutput:
        """Return both classification losses (mean over classes and images) plus, when bound, the weighted L1 term."""
        images, labels = batch["images"], batch["labels"]
        cnn, vit = self.cnn.class_maps(images), self.transformer.class_maps(images)
        vit_scores = vit.mean(dim=(2, 3))
        classify = CLASSIFY[self.settings.loss]
        losses = {"cls_cnn": classify(cnn.mean(dim=(2, 3)), labels), "cls_vit": classify(vit_scores, labels)}
        loss = losses["cls_cnn"] + losses["cls_vit"]
        if self.bound:
            side = images if self.settings.l1_size == "image" else vit
            losses["l1"] = mutual_l1(cnn, vit, labels, (side.shape[2], side.shape[3]), self.settings)
            loss = losses["cls_cnn"] + self.settings.vit_weight * losses["cls_vit"] + self.settings.l1_weight * losses["l1"]
        return {
            "loss": loss,
            "losses": {name: value.detach() for name, value in losses.items()},
            "views": {"vit_map": vit[:1].detach(), "cnn_map": cnn[:1].detach()},
            "scores": vit_scores.detach(),
        }


def mutual_l1(cnn: Tensor, vit: Tensor, labels: Tensor, size: tuple[int, int], settings: CrtSettings) -> Tensor:
    """Return the mean absolute difference of two logit maps at the images' size (bilinear, corners aligned, as published).

    Args:
        cnn, vit: (B, C, h, w), grids may differ.
        labels: (B, C).
        size: (H, W) of the images, pixels.
        settings: which branches get a gradient (`l1_pulls`), and whether absent classes count (`l1_classes`).
    """
    cnn = cnn.detach() if settings.l1_pulls == "vit" else cnn
    vit = vit.detach() if settings.l1_pulls == "cnn" else vit
    # Where the grids are the same, enlarging the difference is the difference of the enlarged.
    parts = [cnn - vit] if cnn.shape == vit.shape else [cnn, -vit]
    enlarged = [F.interpolate(part, size, mode="bilinear", align_corners=True) for part in parts]
    apart = torch.stack(enlarged).sum(dim=0).abs().mean(dim=(2, 3))
    if settings.l1_classes == "all":
        return apart.mean()
    return (apart * labels).sum() / labels.sum().clamp_min(1)


class Crt(Method):
    """Both branches; CAMs are the transformer's, or with `cam.network=cnn` the other's."""

    name = "crt"
    Settings: ClassVar[type[SampleConfig]] = CrtSettings

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.transformer, self.cnn = TransformerBranch(cfg), CnnBranch(cfg)

    def networks(self) -> dict[str, nn.Module]:
        """Return the transformer, then the convolutional network."""
        return {TRANSFORMER_KEY: self.transformer, CNN_KEY: self.cnn}

    @classmethod
    def pretrained(cls, cfg: Config) -> dict[str, str]:
        """Return the transformer's weight file."""
        return {TRANSFORMER_KEY: cast(CrtSettings, cfg.settings).vit.pretrained}

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> nn.Module:
        """Build a branch. Raises ValueError for `cam.activation=softmax`, `cam.merge=mean`, and a network it does not have."""
        if cfg.cam.activation == "softmax" or cfg.cam.merge == "mean":
            raise ValueError(
                "cam.activation=softmax and cam.merge=mean need a background score, which method=crt does not learn; set "
                "cam.activation=relu and cam.merge=sum"
            )
        branches: dict[str, type[nn.Module]] = {"global": TransformerBranch, "cnn": CnnBranch}
        if network not in branches:
            raise ValueError(f"cam.network is {network}, but method=crt has global (the transformer) and cnn")
        return branches[network](cfg)

    def phases(self) -> list[Phase]:
        """Return classification for `train.classify_epochs` (published: 1), then the bound branches, under one schedule."""
        return classify_first(self.cfg.train, CLASSIFICATION, REFINEMENT, continues=True)

    def step_module(self, phase: Phase) -> nn.Module:
        """Return the step; only the second phase has the L1 term."""
        settings = cast(CrtSettings, self.cfg.settings)
        return Refinement(self.transformer, self.cnn, settings, bound=phase.name == REFINEMENT)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return trunk and head of the transformer, then of the other network: the groups of both published optimisers."""
        branches = ((self.transformer, self.transformer.head), (self.cnn, self.cnn.classifier))
        groups: list[dict[str, Any]] = []
        for branch, head in branches:
            groups.append({"params": list(branch.backbone.parameters()), "lr_scale": 1.0})
            groups.append({"params": list(head.parameters()), "lr_scale": self.cfg.train.lr_head_factor})
        return groups

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the view and both branches' class maps."""
        maps = {name: Picture("scores", F.pad(views[name], (0, 0, 0, 0, 0, 1))) for name in ("vit_map", "cnn_map")}
        return {"input": super().pictures(batch, views)["input"], **maps}

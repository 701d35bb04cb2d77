"""IRNet (Ahn, Cho and Kwak, CVPR 2019): class boundaries and displacements to the centre of an object, learned from seeds.

Two branches of 1x1 convolutions on a frozen trunk, usually an ImageNet ResNet-50: a boundary map at a quarter of the picture's
size, and a field of displacements. They learn from pairs of pixels of label maps with confident labels only
(`scripts.make_seeds`, section irn, key seed_dir). `scripts.make_boundaries` writes what they say of each picture, and along
that `models/refiners/random_walk.py` carries the CAMs of any method. CRT uses it unchanged.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.fields import COUNT, SIDE, key
from configs.schema import Config, SampleConfig
from models.backbones import build_trunk
from models.cam_net import Trunk
from models.layers.pixel_pairs import CELL, pair_labels, pair_losses
from models.method import Batch, Method, Picture, StepOutput

PROBE_SIDE = 64
EDGE_CHANNELS, EDGE_GROUPS = 32, 4
FINE_CHANNELS, COARSE_CHANNELS = 128, 256
# A picture larger than irn.pad_size is padded to a multiple of this, the coarsest cell of the trunks.
ALIGNMENT = 32


@dataclass
class IrnSettings(SampleConfig):
    """Section `irn`. Sample and values are the published ones where configs/irn_voc.yaml says nothing else."""

    radius: int = key(10, "distance below which two cells of the maps are a pair, cells of 4 pixels; >= 2", within=COUNT)
    pad_size: int = key(
        512,
        "side pictures are padded to before boundaries are looked for, pixels: GroupNorm sees the padding, so it changes the "
        "result; larger pictures are padded to a multiple of 32 (published: cut, so that they fit their CAMs no more)",
        within=SIDE,
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        least = CELL * (2 * self.radius - 1)
        return [
            *super().rules(name),
            (self.radius >= 2, f"{name}radius is {self.radius}, expected at least 2"),
            (self.patches == 0, f"{name}patches is {self.patches}, expected 0: this method sees whole views only"),
            (
                self.input_size >= least and self.input_size % ALIGNMENT == 0,
                f"{name}input_size is {self.input_size}, expected a multiple of {ALIGNMENT}, at least {least} for {name}radius "
                f"{self.radius}",
            ),
        ]


class MeanShift(nn.Module):
    """Take the mean displacement of a set of pictures off, while evaluated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same."""
        return x if self.training else x - self.running_mean[:, None, None]


class IrnNetwork(nn.Module):
    """Frozen trunk and two branches; keys of the branches are the published ones (`fc_edge<n>`, `fc_dp<n>`).

    A level of the trunk that is coarser than the maps is enlarged; the displacement branch merges its coarse levels first.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        model = cfg.model
        self.num_classes = cfg.data.num_classes
        self.backbone = build_trunk(
            model.backbone, width=model.width, dropout=False, output_stride=model.output_stride, levels=True
        )
        self.backbone.requires_grad_(False).eval()
        with torch.no_grad():
            maps = self.backbone(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
        channels = [each.shape[1] for each in maps]
        strides = [max(CELL, PROBE_SIDE // each.shape[3]) for each in maps]
        self.fine = sum(stride == CELL for stride in strides)
        self.levels = len(channels)
        coarse = strides[min(self.fine, self.levels - 1)]
        for number, (wide, stride) in enumerate(zip(channels, strides, strict=True), 1):
            self.add_module(f"fc_edge{number}", _branch(wide, EDGE_CHANNELS, EDGE_GROUPS, stride // CELL))
            limit, onto = (FINE_CHANNELS, CELL) if number <= self.fine else (COARSE_CHANNELS, coarse)
            self.add_module(f"fc_dp{number}", _branch(wide, min(wide, limit), 0, stride // onto))
        self.add_module(f"fc_edge{self.levels + 1}", nn.Conv2d(self.levels * EDGE_CHANNELS, 1, 1))
        widths = [min(wide, FINE_CHANNELS) for wide in channels[: self.fine]]
        if self.fine < self.levels:
            merged = sum(min(wide, COARSE_CHANNELS) for wide in channels[self.fine :])
            self.add_module(f"fc_dp{self.levels + 1}", _branch(merged, COARSE_CHANNELS, 0, coarse // CELL))
            widths.append(COARSE_CHANNELS)
        last = _branch(sum(widths), COARSE_CHANNELS, 0, 1)
        last.extend([nn.Conv2d(COARSE_CHANNELS, 2, 1, bias=False), MeanShift(2)])
        self.add_module(f"fc_dp{self.levels + 2}", last)

    @property
    def mean_shift(self) -> MeanShift:
        """Return the last layer of the displacement branch."""
        return cast(MeanShift, cast(nn.Sequential, self.get_submodule(f"fc_dp{self.levels + 2}"))[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boundary logits (B, 1, h, w) and displacements (B, 2, h, w), rows and columns in cells, h = ceil(H / 4).

        Args:
            images: (B, 3, H, W) normalised RGB; sides of a multiple of 32 keep the levels aligned.
        """
        with torch.no_grad():
            maps = self.backbone(images)
        size = (-(-images.shape[2] // CELL), -(-images.shape[3] // CELL))
        edges = [self._layer("fc_edge", n, x)[..., : size[0], : size[1]] for n, x in enumerate(maps, 1)]
        logits = self._layer("fc_edge", self.levels + 1, torch.cat(edges, dim=1))
        moved = [self._layer("fc_dp", n, x) for n, x in enumerate(maps, 1)]
        found = [each[..., : size[0], : size[1]] for each in moved[: self.fine]]
        if coarse := moved[self.fine :]:
            rows, columns = coarse[0].shape[2:]
            together = torch.cat([each[..., :rows, :columns] for each in coarse], dim=1)
            found.append(self._layer("fc_dp", self.levels + 1, together)[..., : size[0], : size[1]])
        return logits, self._layer("fc_dp", self.levels + 2, torch.cat(found, dim=1))

    def train(self, mode: bool = True) -> "IrnNetwork":
        """Switch the branches; the trunk stays as it is evaluated."""
        super().train(mode)
        self.backbone.eval()
        return self

    def branch(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of branch `fc_edge` or `fc_dp`."""
        return [p for key, p in self.named_parameters() if key.startswith(name)]

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys, and write each entry under all its published names (all but the tables of pairs)."""
        return {name: value for key, value in state.items() for name in self._names(key)}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename published keys, those of the trunk alone, or ours; of an entry's names the last one counts, as published.

        The tables of pairs that published files hold are left out; unknown keys stay, for the loader to report.
        """
        own = self.state_dict()
        names = {key.removeprefix("backbone."): key for key in own if key.startswith("backbone.")}
        names |= {name: key for key in own for name in (*self._names(key), key)}
        tables = ("path_indices", "disp_target")
        return {names.get(key, key): value for key, value in state.items() if not key.startswith(tables)}

    def _layer(self, branch: str, number: int, x: Tensor) -> Tensor:
        found: Tensor = self.get_submodule(f"{branch}{number}")(x)
        return found

    def _names(self, key: str) -> Iterator[str]:
        """Yield the names of one of our entries in published files, the first one first; only ResNets have such."""
        part, _, rest = key.partition(".")
        prefix = cast(Trunk, self.backbone).key_prefix
        if part != "backbone":
            branch = part.rstrip("0123456789")
            yield key
            yield f"{'edge' if branch == 'fc_edge' else 'dp'}_layers.{int(part.removeprefix(branch)) - 1}.{rest}"
            if rest.endswith("running_mean"):
                yield "mean_shift.running_mean"
        elif "layer4.0.conv3.weight" not in self.backbone.state_dict():
            yield rest.removeprefix(prefix)
        else:
            yield f"resnet50.{rest}"
            module, _, leaf = rest.partition(".")
            stage = int(module.removeprefix("layer")) if module.startswith("layer") else 0
            inside = f"{('conv1', 'bn1').index(module)}.{leaf}" if stage == 0 else f"0.{leaf}"
            yield f"stage{stage + 1}.{inside}"
            yield f"backbone.{stage}.{inside}"


def _branch(inputs: int, outputs: int, groups: int, factor: int) -> nn.Sequential:
    """Return 1x1 convolution, GroupNorm, enlargement by `factor`, ReLU; `groups` 0: 8 below 128 channels, else 16."""
    groups = gcd(outputs, groups or (8 if outputs < FINE_CHANNELS else 16))
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs)]
    if factor > 1:
        layers.append(nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def boundary_fields(network: nn.Module, images: Tensor, pad_size: int) -> tuple[Tensor, Tensor]:
    """Return boundaries (B, 1, h, w) in [0, 1] and displacements (B, 2, h, w) in cells, h = ceil(H / 4), as float32.

    The boundary logits of a picture and its mirror image are averaged; the displacements are those of the picture alone.

    Args:
        network: an `IrnNetwork`, evaluated.
        images: (B, 3, H, W) normalised RGB.
        pad_size: side they are padded to at the right and below, with the mean colour; see `IrnSettings.pad_size`.
    """
    height, width = images.shape[2:]
    right, below = (max(pad_size, -(-side // ALIGNMENT) * ALIGNMENT) - side for side in (width, height))
    padded = F.pad(torch.cat([images, images.flip(-1)]), (0, right, 0, below))
    logits, displacement = network(padded)
    rows, columns = -(-height // CELL), -(-width // CELL)
    straight, mirrored = logits[..., :rows, :columns].float().chunk(2)
    boundary = (straight / 2 + mirrored.flip(-1) / 2).sigmoid()
    return boundary, displacement[: len(images), :, :rows, :columns].float()


class Irn(Method):
    """One phase: the four losses of pairs, half of the boundary's and half of the displacement's."""

    name = "irn"
    Settings = IrnSettings

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.network = IrnNetwork(cfg)
        self.settings = cast(IrnSettings, cfg.settings)

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> nn.Module:
        """Refuse, by a ValueError: there are no CAMs."""
        raise ValueError(
            "method=irn makes boundaries, not CAMs: run scripts.make_boundaries, and scripts.make_cams of the method"
        )

    @classmethod
    def boundary_network(cls, cfg: Config) -> IrnNetwork:
        """Build the network."""
        return IrnNetwork(cfg)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the published groups: the boundary branch, and the displacement branch at the head's rate."""
        factor = self.cfg.train.lr_head_factor
        return [
            {"params": self.network.branch("fc_edge"), "lr_scale": 1.0},
            {"params": self.network.branch("fc_dp"), "lr_scale": factor},
        ]

    def forward(self, batch: Batch) -> StepOutput:
        """Return the loss of the views' pairs. Raises ValueError for samples without seeds."""
        if "seeds" not in batch:
            raise ValueError("method=irn learns from label maps; make them with scripts.make_seeds and set irn.seed_dir")
        logits, displacement = self.network(batch["images"])
        boundary = logits.float().sigmoid()
        # The nearest pixel to a cell's middle, as PIL takes it.
        seeds = batch["seeds"][:, CELL // 2 :: CELL, CELL // 2 :: CELL]
        labels = pair_labels(seeds, self.settings.radius, self.cfg.data.num_classes)
        losses = pair_losses(boundary, displacement.float(), labels, self.settings.radius)
        loss = (losses["pos"] + losses["neg"]) / 2 + (losses["dp_fg"] + losses["dp_bg"]) / 2
        found = {"loss": loss, **losses}
        return {
            "loss": loss,
            "losses": {name: value.detach() for name, value in found.items()},
            "views": {"boundary": boundary.detach()},
        }

    @torch.no_grad()
    def finish(self, images: Iterable[Tensor]) -> None:
        """Store the mean displacement, the mean over batches of their means, padding included (published)."""
        self.network.eval()
        shift = self.network.mean_shift.running_mean
        shift.zero_()
        means = [self.network(batch)[1].float().mean(dim=(0, 2, 3)) for batch in images]
        if means:
            shift.copy_(torch.stack(means).mean(dim=0))

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the first view, its seeds and its boundaries."""
        image = batch["images"][:1]
        classes = self.cfg.data.num_classes
        known = F.one_hot(batch["seeds"][:1].long().clamp_max(classes + 1), classes + 2)[..., : classes + 1]
        seeds = known.permute(0, 3, 1, 2).float().roll(-1, dims=1)  # background last
        return {
            "image": Picture("image", image),
            "seeds": Picture("masks", seeds, image),
            "boundary": Picture("grey", views["boundary"][:1]),
        }

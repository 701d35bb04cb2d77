"""A trunk with the CAM head, and gates where they are wanted: what both networks of L2G are."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Config, ModelConfig
from models.backbones import build_trunk
from models.backbones.resnet38 import ResNet38
from models.layers.attention import Gate
from models.layers.gates import FEATURES, GateOptions
from models.layers.lean import batch_norms, freeze_norms
from models.layers.precision import in_float32

EPSILON = 1e-5
AFFINITY_GAIN = 4.0
# Elements of one block of the affinity matrix while no gradient is kept (64 MiB in float32).
BLOCK_ELEMENTS = 2**24


def propagate(score_map: Tensor, features: Tensor, *, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """Propagate scores along pixel affinity: out_j = sum_i score_i relu<f_i, f_j> / (sum_i relu<f_i, f_j> + 1e-5).

    The published program refines 4096 features before the classifier; the classifier is linear, so refining its few score
    channels gives the same numbers at a fraction of the cost, and columns can be done in blocks without the N x N matrix.

    Args:
        score_map: (B, D, h, w).
        features: (B, E, h, w) affinity features, not normalised.
        block_elements: affinity entries computed at once when no gradient is needed.

    Returns:
        (B, D, h, w) float32.
    """
    size = score_map.shape[2:]
    with in_float32(score_map.device):
        scores = score_map.float().flatten(2)
        f = features.float().flatten(2)
        f = f / (f.norm(dim=1, keepdim=True) + EPSILON)
        cells = f.shape[2]
        # A row of ones gives the normaliser in the same product.
        augmented = torch.cat([scores, torch.ones_like(scores[:, :1])], dim=1)
        keeps_graph = torch.is_grad_enabled() and (f.requires_grad or scores.requires_grad)
        block = cells if keeps_graph else max(1, min(cells, block_elements // (cells * f.shape[0])))
        columns = [augmented @ (f.transpose(1, 2) @ part).relu_() for part in f.split(block, dim=2)]
        out = torch.cat(columns, dim=2)
        return (out[:, :-1] / (out[:, -1:] + EPSILON)).unflatten(2, size)


class CamHead(nn.Module):
    """Classifier, two side projections and the affinity projection; no layer has a bias.

    Args:
        in_channels: of the trunk's features.
        side_channels: of its two side features.
        num_classes: foreground classes C; the background channel is the last one, index C.
        side_dims: channels of the projections (published: 64 and 128).
        affinity_dim: channels compared (published: 192).
    """

    def __init__(
        self,
        in_channels: int,
        side_channels: tuple[int, int],
        num_classes: int,
        side_dims: tuple[int, int] = (64, 128),
        affinity_dim: int = 192,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(in_channels, num_classes + 1, 1, bias=False)
        self.side_a = nn.Conv2d(side_channels[0], side_dims[0], 1, bias=False)
        self.side_b = nn.Conv2d(side_channels[1], side_dims[1], 1, bias=False)
        self.affinity = nn.Conv2d(3 + sum(side_dims), affinity_dim, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.kaiming_normal_(self.side_a.weight)
        nn.init.kaiming_normal_(self.side_b.weight)
        nn.init.xavier_uniform_(self.affinity.weight, gain=AFFINITY_GAIN)

    def forward(
        self, images: Tensor, side_a: Tensor, side_b: Tensor, features: Tensor, channels: Tensor | None = None
    ) -> Tensor:
        """Return plain plus refined scores.

        Args:
            images: (B, 3, H, W), resized to the feature grid as three of the affinity channels.
            side_a: first side feature; no gradient flows into the trunk through it (published).
            side_b: second side feature, likewise.
            features: (B, in_channels, h, w).
            channels: indices of the score channels wanted; None is all C + 1.

        Returns:
            (B, C + 1 or len(channels), h, w) float32.
        """
        weight = self.classifier.weight if channels is None else self.classifier.weight[channels]
        scores = F.conv2d(features, weight)
        size = (features.shape[2], features.shape[3])
        parts = [images, self.side_a(side_a.detach()), self.side_b(side_b.detach())]
        resized = [p if p.shape[2:] == size else F.interpolate(p, size, mode="bilinear", align_corners=True) for p in parts]
        return scores.float() + propagate(scores, self.affinity(torch.cat(resized, dim=1)))


class Trunk(Protocol):
    """What a trunk offers: features at `stride`, two side features, and names.

    `head_modules` are layers of the trunk that learn at the head's rate (VGG-16's extra convolutions).
    `head_names` maps our head's module names to the published ones; `key_prefix` is what our key names have before theirs.
    `classifier_keys` are patterns (fnmatch) of what its ImageNet files hold besides: the classifier over 1000 classes.
    """

    stride: int
    out_channels: int
    side_channels: tuple[int, int]
    side_dims: tuple[int, int]
    affinity_dim: int
    head_names: dict[str, str]
    key_prefix: str
    classifier_keys: tuple[str, ...]

    @property
    def stem(self) -> list[nn.Module]: ...

    @property
    def head_modules(self) -> Sequence[nn.Module]: ...


class CamNetwork(nn.Module):
    """Image to class score maps; keys `backbone.*`, `head.*`, and `gates.*` for gates on the trunk's features.

    Args:
        backbone: a trunk (see `Trunk`).
        num_classes: foreground classes C.
        freeze_bn: BatchNorm uses its stored statistics and is not trained, whatever train() says (published).
        freeze_stem: the trunk's stem is not trained (published).
        gates: suppression and attention; the trunk has made its own already, those at `FEATURES` are added here.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        freeze_bn: bool = True,
        freeze_stem: bool = True,
        gates: GateOptions | None = None,
    ) -> None:
        super().__init__()
        gates = gates or GateOptions()
        trunk = cast(Trunk, backbone)
        self.backbone = backbone
        self.gates = _feature_gates(gates, trunk.out_channels)
        self.head = CamHead(trunk.out_channels, trunk.side_channels, num_classes, trunk.side_dims, trunk.affinity_dim)
        self.num_classes, self.stride = num_classes, trunk.stride
        self.freeze_bn, self.freeze_stem, self.train_gates = freeze_bn, freeze_stem, gates.train_gates
        if freeze_stem:
            for module in trunk.stem:
                module.requires_grad_(False)
        if freeze_bn:
            freeze_norms(self)
        for parameter in self._untrained_gates():
            parameter.requires_grad_(False)

    @property
    def trunk(self) -> Trunk:
        return cast(Trunk, self.backbone)

    def forward(self, images: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute score maps and image scores.

        Args:
            images: (B, 3, H, W) float32, normalised RGB.
            channels: score channels wanted (indices in [0, C]); None is all.

        Returns:
            score map (B, C + 1, h, w), background last, or (B, len(channels), h, w); logits (B, C), the spatial means of
            the class channels (of all wanted channels when `channels` is given).
        """
        side_a, side_b, features = self.backbone(images)
        if self.gates is not None:
            features = self.gates(features)
        score_map = self.head(images, side_a, side_b, features, channels)
        classes = score_map if channels is not None else score_map[:, : self.num_classes]
        return score_map, classes.mean(dim=(2, 3))

    def train(self, mode: bool = True) -> "CamNetwork":
        """Switch dropout (and trainable BatchNorm); frozen BatchNorm stays in eval mode."""
        super().train(mode)
        for module in [*(batch_norms(self) if self.freeze_bn else []), *(self.trunk.stem if self.freeze_stem else [])]:
            module.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the published groups, convolutions in registration order.

        Frozen stem convolutions are members, as published (they never get a gradient, so they never change, and published
        optimiser states count them). `norm` holds BatchNorm's parameters where it is trained. Gates: see `train_gates`.
        """
        head = {id(m) for part in self._head_parts() for m in part.modules()}
        untrained = {id(parameter) for parameter in self._untrained_gates()}
        groups: dict[str, list[nn.Parameter]] = {
            "pretrained_weights": [], "pretrained_biases": [], "head_weights": [], "head_biases": [], "norm": []
        }  # fmt: skip
        for module in self.modules():
            prefix = "head" if id(module) in head else "pretrained"
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
                groups["norm"] += [p for p in module.parameters(recurse=False) if p.requires_grad]
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in untrained:
                    continue
                groups[f"{prefix}_{'biases' if name.endswith('bias') else 'weights'}"].append(parameter)
        if not groups["norm"]:
            del groups["norm"]
        return groups

    def gate_keys(self) -> list[str]:
        """Return the keys of all suppression and attention layers, which no weight file of a plain trunk holds."""
        names = [name for name, module in self.named_modules() if isinstance(module, Gate)]
        return [key for key in self.state_dict() if any(key.startswith(f"{name}.") for name in names)]

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys to the published ones."""
        return {self._published_name(key): value for key, value in state.items()}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename published keys (or keep our own); unknown keys stay as they are, for the loader to report."""
        names = {self._published_name(key): key for key in self.state_dict()}
        return {names.get(key, key): value for key, value in state.items()}

    def _published_name(self, key: str) -> str:
        part, _, rest = key.partition(".")
        if part == "gates":
            return key
        if part == "backbone":
            return rest.removeprefix(self.trunk.key_prefix)
        module, _, leaf = rest.partition(".")
        return f"{self.trunk.head_names.get(module, 'head.' + module)}.{leaf}"

    def _gates(self) -> list[Gate]:
        return [m for m in self.modules() if isinstance(m, Gate)]

    def _head_parts(self) -> list[nn.Module]:
        """Return what learns at the head's rate."""
        return [self.head, *self.trunk.head_modules, *(self._gates() if self.train_gates else [])]

    def _untrained_gates(self) -> list[nn.Parameter]:
        """Return the parameters of gates that keep their random start."""
        if self.train_gates:
            return []
        learning = {id(p) for gate in self._gates() for p in gate.published_parameters()}
        return [p for gate in self._gates() for p in gate.parameters() if id(p) not in learning]


def new_keys(network: nn.Module) -> list[str]:
    """Return the keys of a network on a trunk (`backbone`) that no weight file of that trunk holds; none of any other network.

    They are what stands outside of the trunk, its new layers (`Trunk.head_modules`), and suppression and attention.
    """
    if not hasattr(network, "backbone"):
        return []
    trunk = network.get_submodule("backbone")
    names = [name for name, module in trunk.named_modules(prefix="backbone") if module in cast(Trunk, trunk).head_modules]
    old = [key for key in network.state_dict() if key.startswith("backbone.")]
    gates = network.gate_keys() if isinstance(network, CamNetwork) else []
    old = [key for key in old if key not in gates and not any(key.startswith(f"{name}.") for name in names)]
    return [key for key in network.state_dict() if key not in set(old)]


def _feature_gates(gates: GateOptions, channels: int) -> nn.Sequential | None:
    """Return attention, then suppression of the trunk's features, or None."""
    wanted = (gates.attention_at(FEATURES, channels), gates.suppression_at(FEATURES, channels))
    layers = [layer for layer in wanted if layer is not None]
    return nn.Sequential(*layers) if layers else None


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


def refuse_masks(cfg: Config) -> None:
    """Raise ValueError for `cam.merge=mean`: the score maps of a `CamNetwork` are no masks."""
    if cfg.cam.merge == "mean":
        raise ValueError(f"cam.merge is mean, but the maps of method={cfg.method} are scores, not masks; set cam.merge=max")


def cam_network(model: ModelConfig, num_classes: int) -> CamNetwork:
    """Build the CAM network section `model` describes; see `build_cam_network`."""
    network = build_cam_network(
        model.backbone,
        num_classes,
        width=model.width,
        freeze_bn=model.freeze_bn,
        freeze_stem=model.freeze_stem,
        dropout=model.dropout,
        output_stride=model.output_stride,
        gates=GateOptions.of(model),
    )
    if model.checkpoint_activations:
        if not hasattr(network.backbone, "checkpoint_activations"):
            raise ValueError(f"model.checkpoint_activations is for ResNets, not {model.backbone}; leave it false")
        cast(Any, network.backbone).checkpoint_activations = True
    return network

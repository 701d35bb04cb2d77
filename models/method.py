"""The face of a method: what a published system is, as far as the programs need to know.

A method is one file, `models/<name>.py`, with one `Method` subclass of that `name` and its settings beside it; `method: <name>`
in a YAML file picks it. Nothing is registered anywhere: training, CAM inference, scoring, labels, the report and the comparison
know only this face.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypedDict, cast

from torch import Tensor, nn

from configs.schema import Config, SampleConfig, TrainConfig

PACKAGE = "models"
# Published convention (from OAA): biases learn at twice the rate of their weights.
BIAS_FACTOR = 2.0


class Batch(TypedDict, total=False):
    """What a step sees: samples of `utils.data.samples`, stacked. B images of side S, K local views, C classes.

    images (B, 3, S, S) float32, normalised RGB; saliency (B, 1, S, S) in [0, 1]; labels (B, C), 1 for present classes; boxes
    (B, K, 4) int64 on the CPU, [x1, y1, x2, y2] in pixels, where the settings ask for local views; local_labels (B, C) where
    the local views are classified as something else (paste.leak_labels); seeds (B, S, S) uint8 label values, 255 unknown, where
    the settings name a seed_dir; id: names of the images; window: mini-batches of the optimiser step, over which the trainer
    takes the mean of their losses.
    """

    images: Tensor
    saliency: Tensor
    labels: Tensor
    boxes: Tensor
    local_labels: Tensor
    seeds: Tensor
    id: list[str]
    window: int


class _StepOutput(TypedDict):
    loss: Tensor
    losses: dict[str, Tensor]
    views: dict[str, Tensor]


class StepOutput(_StepOutput, total=False):
    """`loss`: scalar to minimise; `losses`: scalars to log, detached; `views`: what `Method.pictures` draws, detached.

    `scores`: class logits (B, C), detached, which a validation's average precision is computed from; may be left out.
    """

    scores: Tensor


class Picture(NamedTuple):
    """A picture to show while training: `kind` says how its (N, D, h, w) `values` are drawn, side by side.

    image: D = 3, normalised RGB; rgb: D = 3 in [0, 1]; grey and heat: D = 1 in [0, 1]; scores: D = C + 1 score maps, as heat of
    the present classes, each divided by its maximum; classes: D = C + 1, the colour of the highest channel (background last);
    masks: likewise in [0, 1], laid over the normalised images `over`, the stronger the higher the value; the bare image where
    all are 0.
    """

    kind: str
    values: Tensor
    over: Tensor | None = None


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to `end` - 1 of a run.

    Attributes:
        name: for the log.
        start, end: 0-based epochs.
        lr: base learning rate.
        fresh_optimizer: the optimiser's momenta begin anew where this phase follows another.
        continues: the learning rate's schedule runs on from the phase before, instead of beginning anew.
    """

    name: str
    start: int
    end: int
    lr: float
    fresh_optimizer: bool = False
    continues: bool = False


def classify_first(
    train: TrainConfig, name: str, then: str, *, fresh_optimizer: bool = False, continues: bool = False
) -> list[Phase]:
    """Return phase `name` for `train.classify_epochs`, if any, then phase `then`, of which the rest is said."""
    middle = min(max(train.first_epoch, train.classify_epochs), train.epochs)
    both = [
        Phase(name, train.first_epoch, middle, train.classify_lr or train.lr),
        Phase(then, middle, train.epochs, train.lr, fresh_optimizer, continues),
    ]
    return [phase for phase in both if phase.end > phase.start]


class ScoreNetwork(Protocol):
    """A network that CAMs come from: `(images, channels) -> (score maps, logits)`.

    images (B, 3, H, W) normalised RGB; channels: indices of the wanted score channels in [0, C] (background is C), None: all.
    Score maps (B, D, h, w), background last; logits (B, C), of the wanted channels where `channels` is given. Its weights
    have published names.
    """

    num_classes: int

    def __call__(self, images: Tensor, channels: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any: ...

    def to_published(self, state: dict[str, Tensor], /) -> dict[str, Tensor]: ...

    def from_published(self, state: dict[str, Tensor], /) -> dict[str, Tensor]: ...


class Method(nn.Module):
    """Base of all methods; `forward(batch)` is one step of the last phase.

    A method's networks are ordinary modules whose weights have published names (`to_published`, `from_published`); the
    base class renames nothing, so that a network without published names needs neither.

    Class attributes:
        name: as in the YAML, and of the file.
        Settings: dataclass of its YAML section: `SampleConfig` (what a sample holds) and its own keys.
        section: name of that section; `name` where it is empty.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[SampleConfig]] = SampleConfig
    section: ClassVar[str] = ""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg

    def networks(self) -> dict[str, nn.Module]:
        """Return checkpoint key -> network: `state_dict` is what CAMs are made with, `local_dict` and others as published.

        A method of one network has it as `network`.
        """
        return {"state_dict": cast(nn.Module, self.network)}

    @classmethod
    def pretrained(cls, cfg: Config) -> dict[str, str]:
        """Return checkpoint key -> weight file of that network's trunk, where it is not `model.pretrained`; "": none."""
        return {}

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> nn.Module:
        """Build, with random weights, the `ScoreNetwork` that CAMs come from.

        Args:
            cfg: the run.
            network: global, or another of the method's networks, `cam.network`.

        Raises:
            ValueError: for settings that do not go together, e.g. a reading of the scores the network did not learn.
        """
        raise NotImplementedError

    @classmethod
    def boundary_network(cls, cfg: Config) -> nn.Module:
        """Build, with random weights, the network boundaries come from (`models.irn.IrnNetwork`).

        Raises:
            ValueError: for a method that makes none.
        """
        raise ValueError(f"method={cls.name} makes no boundaries; use a configuration with method: irn")

    def phases(self) -> list[Phase]:
        """Return what the run goes through; together they cover `train.first_epoch` to `train.epochs`."""
        train = self.cfg.train
        return [Phase("training", train.first_epoch, train.epochs, train.lr)]

    def begin(self, phase: Phase) -> None:
        """Called once when `phase` begins after another one (not when a run is resumed inside of it)."""

    def step_module(self, phase: Phase) -> nn.Module:
        """Return the module one step of `phase` runs, `forward(batch) -> StepOutput`; all its parameters take part."""
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups in the published order: `params`, `lr_scale` and, if not the run's, `weight_decay`."""
        return interleaved_groups([trained_parameters(n) for n in self.networks().values()], self.cfg.train.lr_head_factor)

    def finish(self, images: Iterable[Tensor]) -> None:
        """Called after the last step, by one process, before weights are written.

        Args:
            images: the pictures of data.infer_list, once: batches (B, 3, S, S), normalised, from the top left corner on, the
                mean colour where a picture ends. Loaded only if looked at.
        """

    def validation_score(self, means: Mapping[str, float]) -> float:
        """Return what a validation (section `validation`) selects weights by, the higher the better.

        Args:
            means: name -> mean of the losses of `forward` over the validation list, and `loss`; `map` is the mean average
                precision of the class scores, in [0, 1], where `forward` returns them.
        """
        return -means["loss"]

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return what to show of a step's first image: name -> picture."""
        first = slice(0, 1)
        return {"input": Picture("image", batch["images"][first]), "saliency": Picture("grey", batch["saliency"][first])}


def trained_parameters(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return a network's own `parameter_groups()`, or weights and biases where it has none."""
    if callable(own := getattr(network, "parameter_groups", None)):
        groups: dict[str, list[nn.Parameter]] = own()
        return groups
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    return {
        "pretrained_weights": [p for name, p in named if not name.endswith("bias")],
        "pretrained_biases": [p for name, p in named if name.endswith("bias")],
    }


def interleaved_groups(networks: Sequence[Mapping[str, list[nn.Parameter]]], head_factor: float) -> list[dict[str, Any]]:
    """Return optimiser groups of one or more networks in the published order.

    Args:
        networks: for each, lists named pretrained_weights, pretrained_biases, head_weights, head_biases and norm (they may be
            absent). Groups are interleaved as published: pretrained weights of all networks, then their biases, and so on.
        head_factor: rate factor of the head's weights.

    Returns:
        groups with factors 1, 2, head_factor and twice that; `norm` has 1 and no decay, and is left out where none has it.
    """
    factors = {
        "pretrained_weights": 1.0,
        "pretrained_biases": BIAS_FACTOR,
        "head_weights": head_factor,
        "head_biases": BIAS_FACTOR * head_factor,
    }
    groups = [{"params": net.get(name, []), "lr_scale": factor} for name, factor in factors.items() for net in networks]
    if any(net.get("norm") for net in networks):
        groups += [{"params": net.get("norm", []), "lr_scale": 1.0, "weight_decay": 0.0} for net in networks]
    return groups


def find_method(name: str) -> type[Method]:
    """Return the method `models/<name>.py` holds. Raises ValueError when there is no such file, or none of that name in it."""
    module = f"{PACKAGE}.{name}"
    if not name.isidentifier() or importlib.util.find_spec(module) is None:
        raise ValueError(f"method is '{name}', but there is no models/{name}.py; expected e.g. l2g or cam")
    found = [kind for kind in vars(importlib.import_module(module)).values() if _is_method(kind, name)]
    if not found:
        raise ValueError(f"models/{name}.py holds no Method with name = '{name}'")
    return found[0]


def _is_method(kind: Any, name: str) -> bool:
    return isinstance(kind, type) and issubclass(kind, Method) and getattr(kind, "name", "") == name

"""What a training checkpoint holds: networks, optimiser and the position in the run; assembling, writing and restoring it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_path

FORMAT = 1
PREVIOUS_SUFFIX = ".previous"


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain values only) to `path`; the file there before becomes `<path>.previous`.

    A kill leaves either the old or the new file whole. `torch.load(weights_only=True)` reads it.
    """
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)
        if path.exists():
            # A second name for the old file: `path` itself is never missing in between.
            previous = path.with_name(path.name + PREVIOUS_SUFFIX)
            previous.unlink(missing_ok=True)
            os.link(path, previous)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint onto the CPU; a damaged file falls back to the previous one beside it.

    Raises:
        UserError: when neither is readable, or the file is no training checkpoint of this program.
    """
    problems = []
    for candidate in (path, path.with_name(path.name + PREVIOUS_SUFFIX)):
        try:
            state = torch.load(candidate, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except Exception as error:  # torch reports damage as several unrelated types (RuntimeError, EOFError, pickle, ...)
            problems.append(f"{candidate} cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
            continue
        if not isinstance(state, dict) or "next_batch" not in state:
            raise UserError(f"{candidate} is not a training checkpoint of this program; use train.init_from for weights")
        return state
    if problems:
        raise UserError("; ".join(problems) + "; delete it and resume from another checkpoint or start anew")
    raise UserError(f"checkpoint {path} does not exist; check train.resume")


def check_same_run(path: Path, state: Mapping[str, Any], settings: Mapping[str, tuple[str, Any]]) -> None:
    """Check that a checkpoint was trained with the settings of the run that is to continue it.

    Args:
        path: of the checkpoint, for the message.
        state: from `load_checkpoint`.
        settings: entry of `state` -> (configuration key, value in this run).

    Raises:
        UserError: giving both sides.
    """
    if any(state[entry] != value for entry, (_, value) in settings.items()):
        then = " ".join(f"{key}={state[entry]}" for entry, (key, _) in settings.items())
        now = " ".join(f"{key}={value}" for key, value in settings.values())
        raise UserError(f"{path} was trained with {then}, not {now}; use the same values or start anew")


def find_resume(spec: str, model_dir: Path) -> Path | None:
    """Translate `train.resume`: '' is no file, 'auto' is `model_dir/last.pth` if it (or its predecessor) exists."""
    if not spec:
        return None
    if spec != "auto":
        return Path(spec)
    last = model_dir / "last.pth"
    previous = last.with_name(last.name + PREVIOUS_SUFFIX)
    return last if last.exists() or previous.exists() else None


# The published networks were wrapped in DataParallel, and its prefix stayed in their files.
PREFIX = "module."


def published_path(model_dir: Path, name: str, epoch: int) -> Path:
    """Return where the published program puts epoch `epoch` (0-based): `pascal_voc_epoch_9.pth`, `mscoco_epoch_14.pth`."""
    return model_dir / f"{name}_epoch_{epoch}.pth"


def save_published(
    path: Path, networks: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any], *, epoch: int, counter: int
) -> None:
    """Write `epoch`, `global_counter`, the networks and `optimizer`, as the published training scripts do.

    Args:
        path: see `published_path`.
        networks: `state_dict` (global) and `local_dict` -> entries under published names; `module.` is put before them.
        optimizer: its state dict; the order of groups and parameters is the published one for sgd.
        epoch: finished, 0-based.
        counter: batches done over all epochs.
    """
    prefixed = {key: {PREFIX + name: value for name, value in state.items()} for key, state in networks.items()}
    with atomic_path(path) as temporary:
        torch.save({"epoch": epoch, "global_counter": counter, **prefixed, "optimizer": dict(optimizer)}, temporary)


LAST = "last.pth"


class PublishedNetwork(Protocol):
    """A network whose entries have published names."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any: ...

    def to_published(self, state: dict[str, Tensor], /) -> dict[str, Tensor]: ...

    def from_published(self, state: dict[str, Tensor], /) -> dict[str, Tensor]: ...


@dataclass
class Position:
    """Where a training stands: `epoch` and `batch` in it come next (0-based), `counter` batches are done over all epochs.

    `seconds_before` is the time earlier parts of a resumed run took.
    """

    epoch: int = 0
    batch: int = 0
    counter: int = 0
    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Return the time spent on this training, earlier parts of a resumed run included."""
        return self.seconds_before + time.monotonic() - self.started


@dataclass(frozen=True)
class Identity:
    """What a run cannot change when it is continued: its draws and batches, and the kind of its networks."""

    seed: int
    batch_size: int
    backbone: str


class TrainState:
    """A training that can be saved and continued.

    No generator state is stored: every draw follows from seed, epoch, batch and rank.

    Args:
        networks: checkpoint key (`state_dict`, `local_dict`) -> network; stored under the published names.
        optimizer: over their parameters.
        identity: checked when a checkpoint is continued.
    """

    def __init__(self, networks: Mapping[str, PublishedNetwork], optimizer: torch.optim.Optimizer, identity: Identity) -> None:
        self.networks, self.optimizer, self.identity = networks, optimizer, identity
        self.position = Position()

    def start_transfer(self) -> None:
        """Begin the second phase: the local network continues from the trained global one, the optimiser from nothing."""
        self.networks["local_dict"].load_state_dict(self.networks["state_dict"].state_dict())
        self.optimizer.state.clear()

    def save(self, model_dir: Path, *, keep: bool = False, published_name: str = "") -> None:
        """Write `<model_dir>/last.pth`.

        With `keep` the epoch just finished also stays as `epoch_<n>.pth`, with a `published_name` it is written in the
        published layout as `<published_name>_epoch_<n>.pth` too.
        """
        at, identity = self.position, self.identity
        networks = {key: network.to_published(network.state_dict()) for key, network in self.networks.items()}
        optimizer = self.optimizer.state_dict()
        state = {
            "epoch": at.epoch - 1,
            "next_epoch": at.epoch,
            "next_batch": at.batch,
            "global_counter": at.counter,
            "seconds": at.seconds,
            "seed": identity.seed,
            "batch_size": identity.batch_size,
            "backbone": identity.backbone,
            **networks,
            "optimizer": optimizer,
        }
        save_checkpoint(state, model_dir / LAST)
        if keep:
            save_checkpoint(state, model_dir / f"epoch_{at.epoch - 1}.pth")
        if published_name:
            path = published_path(model_dir, published_name, at.epoch - 1)
            save_published(path, networks, optimizer, epoch=at.epoch - 1, counter=at.counter)

    def resume(self, spec: str, model_dir: Path) -> Path | None:
        """Continue from the checkpoint `train.resume` names; return its path, or None when there is nothing to continue.

        Raises:
            UserError: when the file is missing, damaged, of other networks, or trained with another seed or batch size.
        """
        path = find_resume(spec, model_dir)
        if path is None:
            return None
        state, mine = load_checkpoint(path), self.identity
        check_same_run(path, state, {"seed": ("seed", mine.seed), "batch_size": ("train.batch_size", mine.batch_size)})
        for key, network in self.networks.items():
            try:
                network.load_state_dict(network.from_published(state[key]))
            except RuntimeError as error:
                raise UserError(f"{path} does not fit model.backbone={mine.backbone}: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(state["next_epoch"], state["next_batch"], state["global_counter"], state["seconds"])
        return path

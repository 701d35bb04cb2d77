"""What a training checkpoint holds: networks, optimiser and the position in the run; assembling, writing and restoring it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.checkpoints import check_same_run, find_resume, load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.published_checkpoint import published_path, save_published

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

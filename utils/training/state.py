"""What a training checkpoint holds: networks, optimiser and the position in the run; assembling, writing and restoring it."""

import copy
import logging
import math
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError, damage
from utils.files import visible
from utils.runtime.provenance import differing
from utils.training.plan import Plan
from utils.training.weights import (
    check_finite,
    listed_keys,
    load_weights,
    published_state,
    read_tensors,
    read_weights,
    save_content,
    state_dict_of,
)

FORMAT = 1
PREVIOUS_SUFFIX = ".previous"
# What `TrainState.save` writes beside the networks, and of which type.
HELD: dict[str, Any] = {
    "position": int,
    "seconds": float,
    "identity": dict,
    "latest": list,
    "best": float | None,
    "optimizer": dict,
}


def previous_path(path: Path) -> Path:
    """Return where the checkpoint before the one at `path` is kept."""
    return path.with_name(path.name + PREVIOUS_SUFFIX)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], Path]:
    """Read a training checkpoint onto the CPU; a damaged or missing file falls back, with a warning, to the previous one.

    Returns:
        its content, and the file it is from.

    Raises:
        UserError: when neither is readable, or the file is no training checkpoint of this program.
    """
    problems = []
    for candidate in (path, previous_path(path)):
        try:
            state = read_tensors(candidate)
        except FileNotFoundError:
            continue
        except Exception as error:  # see `read_tensors`
            problems.append(f"{candidate} cannot be read ({damage(error)[:120]})")
            continue
        if not isinstance(state, dict) or not _holds_all(state):
            raise UserError(f"{candidate} is not a training checkpoint of this program; use train.init_from for weights")
        if candidate != path:
            why = problems[0] if problems else f"{path} is missing"
            logging.getLogger("l2g").warning("%s: training goes on from %s, which is older", why, candidate)
        return state, candidate
    if problems:
        raise UserError("; ".join(problems) + "; delete it and resume from another checkpoint or start anew")
    raise UserError(f"checkpoint {path} does not exist; check train.resume")


def _holds_all(state: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint holds what it must, of the right types, and with finite numbers."""
    numbers = [state.get("seconds"), state.get("best") or 0, *latest] if isinstance(latest := state.get("latest"), list) else []
    typed = all(key in state and isinstance(state[key], kind) for key, kind in HELD.items())
    finite = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
    return typed and finite and bool(state["identity"])


def find_resume(spec: str, model_dir: Path) -> Path | None:
    """Translate `train.resume`: '' is no file, 'auto' is `model_dir/last.pth` if it (or its predecessor) exists."""
    if not spec:
        return None
    if spec != "auto":
        return Path(spec)
    last = model_dir / "last.pth"
    return last if last.exists() or previous_path(last).exists() else None


# The published networks were wrapped in DataParallel, and its prefix stayed in their files.
PREFIX = "module."


def save_published(
    path: Path, networks: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any], *, epoch: int, counter: int
) -> None:
    """Write `epoch`, `global_counter`, the networks and `optimizer`, as the published training scripts do.

    Args:
        path: as the published program names it: pascal_voc_epoch_9.pth, mscoco_epoch_14.pth.
        networks: `state_dict` (global) and `local_dict` -> entries under published names; `module.` is put before them.
        optimizer: its state dict; the order of groups and parameters is the published one for sgd.
        epoch: finished, 0-based.
        counter: batches done over all epochs.
    """
    prefixed = {key: {PREFIX + name: value for name, value in state.items()} for key, state in networks.items()}
    save_content({"epoch": epoch, "global_counter": counter, **prefixed, "optimizer": dict(optimizer)}, path)


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write an optimiser's state dict alone, as WS-FCN and 1-Stage keep it beside a snapshot."""
    save_content(optimizer.state_dict(), path)


LAST, BEST = "last.pth", "best.pth"
# Is there while a training has written files, but no checkpoint that it could go on from.
BEGUN = ".begun"
# Checkpoint keys of the network whose weights are the result, and of their average over steps.
TRAINED, AVERAGE = "state_dict", "average"
# See `utils.training.validation.snapshot_name`.
_SNAPSHOT = re.compile(r"model_(enc_e(\d+)Xs(-?[\d.]+)\.pth)")


def refuse_used(model_dir: Path, resume: str, *, name: str, renamed: Sequence[Path]) -> None:
    """Make sure that a training writes over no other one's files.

    Args:
        model_dir: where it writes checkpoints.
        resume: `train.resume`.
        name: setting that names the run.
        renamed: folders that `train.overwrite` sets aside.

    Raises:
        UserError: with the ways out, when there are files and `resume` names none of them; a training that was killed before
            its first checkpoint begins anew with "auto".
    """
    path, found = find_resume(resume, model_dir), visible(model_dir)
    if resume == "auto" and path is None and (model_dir / BEGUN).exists():
        return
    if found and (path is None or path.parent.resolve() != model_dir.resolve()):
        folders = " and ".join(map(str, renamed))
        continues = "continue it with train.resume=auto, " if find_resume("auto", model_dir) else ""
        raise UserError(
            f"{model_dir} holds an earlier training ({listed_keys(found)}); {continues}give this one another {name}, or set "
            f"train.overwrite=true, which first renames {folders} (.old1, .old2 and so on)"
        )


class TrainState:
    """A training that can be saved and continued exactly.

    No generator state is stored: every draw follows from seed, epoch, batch and rank.

    Args:
        networks: checkpoint key (`state_dict`, `local_dict`) -> network; stored under the published names.
        optimizer: over their parameters.
        identity: setting -> value of what the run follows from (plain values).
        position: where it begins.
        may_change: settings of `identity` that may be others when it is continued.
        decay: of the weights' exponential moving average over steps, see `average`; 0: none is kept.

    Attributes:
        position: mini-batches done since the beginning of epoch 0, see `utils.training.plan`.
        latest: mean losses that a moving average is over, oldest first.
        best: highest validation score so far, None before the first.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        identity: Mapping[str, Any],
        position: int = 0,
        may_change: Collection[str] = (),
        decay: float = 0.0,
    ) -> None:
        self.networks, self.optimizer, self.identity, self.position = dict(networks), optimizer, dict(identity), position
        self.decay = decay
        if decay:
            self.networks[AVERAGE] = copy.deepcopy(networks[TRAINED]).requires_grad_(False)
        self.may_change = may_change
        self.latest: list[float] = []
        self.best: float | None = None
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._damaged: Path | None = None

    @property
    def seconds(self) -> float:
        """Return the time spent on this training, earlier parts of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._started

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the average towards the weights after step `step` (from 0): average = d * average + (1 - d) * weights.

        d rises to `decay` as (1 + step) / (10 + step), so that the start is soon forgotten. Buffers are taken as they are.
        """
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        kept, new = self.networks[AVERAGE], self.networks[TRAINED]
        torch._foreach_lerp_([p.data for p in kept.parameters()], [p.data for p in new.parameters()], 1 - decay)
        for old, buffer in zip(kept.buffers(), new.buffers(), strict=True):
            old.copy_(buffer)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trained network has the averaged weights where these are kept, to be validated and exported."""
        if self.decay:
            self._exchange()
        try:
            yield
        finally:
            if self.decay:
                self._exchange()

    def _exchange(self) -> None:
        pairs = zip(self.networks[AVERAGE].parameters(), self.networks[TRAINED].parameters(), strict=True)
        for kept, new in pairs:
            kept.data, new.data = new.data, kept.data

    def published_weights(self) -> dict[str, dict[str, Tensor]]:
        """Return checkpoint key -> weights under the published names."""
        return {key: published_state(network) for key, network in self.networks.items()}

    def save(self, path: Path) -> None:
        """Write a checkpoint that `resume` continues from; the one there before becomes `<path>.previous`.

        A kill leaves one of them whole. `torch.load(weights_only=True)` reads them.
        """
        damaged = path == self._damaged  # it must not take the place of the good one that was gone back to
        save_content(
            {
                "format": FORMAT,
                "position": self.position,
                "seconds": self.seconds,
                "identity": self.identity,
                "latest": list(self.latest),
                "best": self.best,
                **self.published_weights(),
                "optimizer": self.optimizer.state_dict(),
            },
            path,
            previous=None if damaged else previous_path(path),
        )
        if damaged:
            self._damaged = None

    def resume(self, spec: str, model_dir: Path, plan: Plan, log: logging.Logger) -> Path | None:
        """Continue from the checkpoint `train.resume` names; return the file read, or None when there is nothing to continue.

        What may change and does is logged. A snapshot, model_enc_e018Xs0.905.pth with opt_enc_... beside it, goes on after 18
        passes. (The published program leaves out the pass that follows.)

        Raises:
            UserError: when the file, or a snapshot's second one, is missing, damaged, of other networks, further than `plan`,
                or trained with other settings.
        """
        path = find_resume(spec, model_dir)
        if path is None:
            return None
        snapshot = _SNAPSHOT.fullmatch(path.name)
        state, found = (self._snapshot(path, snapshot, plan), path) if snapshot else load_checkpoint(path)
        self._damaged, path = path if found != path else None, found
        if other := differing(dict.fromkeys(state.keys() - HELD.keys() - {"format"}, True), dict.fromkeys(self.networks, True)):
            raise UserError(
                f"{path} is of another method or stage ({', '.join(other)} in one of them only); check train.resume"
            )
        changes = self._changes(path, state["identity"])
        for key, network in self.networks.items():
            weights = state_dict_of(state[key], path)
            check_finite(weights, path)
            load_weights(network, weights, source=str(path))
        self._restore_optimizer(state["optimizer"], path)
        self.position, self.latest, self.best = state["position"], list(state["latest"]), state["best"]
        self._seconds_before, self._started = state["seconds"], time.monotonic()
        if self.position > plan.stop:
            raise UserError(
                f"{path} is at {plan.describe(self.position)}, further than this run goes; let it go as far, or use "
                "the weights as they are"
            )
        log.info("resumed from %s at %s", path, plan.describe(self.position))
        for change in changes:
            log.info("other than before: %s", change)
        return path

    def _restore_optimizer(self, state: dict[str, Any], path: Path) -> None:
        """Restore the optimiser; its own loading looks at numbers of groups and parameters only."""
        try:
            self.optimizer.load_state_dict(state)
            for number, (parameter, values) in enumerate(self.optimizer.state.items()):
                held = {f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None}
                check_finite(held, path)
                if wrong := [name for name, value in held.items() if value.dim() and value.shape != parameter.shape]:
                    raise ValueError(f"{listed_keys(wrong)} of another shape than the weights")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} does not fit the optimiser ({damage(error)}); use the settings it was trained with"
            ) from error

    def _snapshot(self, path: Path, name: re.Match[str], plan: Plan) -> dict[str, Any]:
        """Return a snapshot's content as that of a checkpoint."""
        weights, beside = read_weights(path), path.with_name(f"opt_{name[1]}")
        if not beside.is_file():
            raise UserError(
                f"{path} has no optimiser state {beside.name} beside it; put it there, or start anew from these weights by "
                f"train.init_from={path}"
            )
        own = self.optimizer.param_groups
        try:
            optimizer = read_tensors(beside)
            # Published files know no lr_scale.
            groups = [{**ours, **theirs} for ours, theirs in zip(own, optimizer["param_groups"], strict=True)]
            optimizer = {"state": optimizer["state"], "param_groups": groups}
        except Exception as error:  # as in `load_checkpoint`, and whatever another kind of file makes of it
            raise UserError(f"{beside} is no optimiser's state of such a run ({damage(error)[:120]})") from error
        position, best = int(name[2]) * plan.per_epoch, float(name[3])
        rest = {"identity": self.identity, "latest": [], "seconds": 0.0}
        return {"position": position, "best": best, "state_dict": weights, "optimizer": optimizer, **rest}

    def _changes(self, path: Path, then: Mapping[str, Any]) -> list[str]:
        """Return "<setting>=<value>, it was <value>" of what may change and does; refuse what may not."""
        # Settings that came with a later version are not in older files.
        other = differing({key: then.get(key, value) for key, value in self.identity.items()}, self.identity)
        if fixed := [key for key in other if key not in self.may_change]:
            before, now = ([f"{key}={side[key]}" for key in fixed] for side in (then, self.identity))
            raise UserError(
                f"{path} was trained with {listed_keys(before)}, not {listed_keys(now)}; use the same values, or start a new "
                "run (another name, the old weights as its start)"
            )
        return [f"{key}={self.identity[key]}, it was {then[key]}" for key in other]

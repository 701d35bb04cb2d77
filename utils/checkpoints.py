"""Training checkpoints that survive a kill at any moment: written beside, synced, renamed; the previous one is kept."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

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

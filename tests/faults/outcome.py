"""What a program left behind: which files, whether they are whole, and what in them says what it found out."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file


def within(path: str, places: Sequence[str]) -> bool:
    """Return whether a path is one of some places, or lies in one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def digests(folder: Path) -> dict[str, str]:
    """Return relative path -> digest of all files below a folder; of what is no file (a pipe, a link) only its name counts."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            regular = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(folder))] = hashlib.sha1(path.read_bytes()).hexdigest() if regular else "-"
    return found


# What holds times, or is for people.
_VOLATILE = re.compile(
    r"(source|summary)\.json$|(^|/)(tb|logs)/|log\.txt$|\.(lock|previous|ya?ml|html|jsonl|log)$|last\.pth|opt_enc"
)
_TIMES = {
    "Modified", "Bytes",
    "seconds", "finished", "peak_memory_gib", "loader_wait", "images_per_second", "started", "decoded", "unchanged", "images",
    "cams", "skipped", "done", "cams_written", "train.resume",
}  # fmt: skip


def results(folder: Path, writes: Sequence[str]) -> dict[str, str]:
    """Return relative path -> digest of what a program wrote; times do not count."""
    found = {}
    for path, digest in digests(folder).items():
        if within(path, writes) and not _VOLATILE.search(path):
            found[path] = _timeless(folder, path) if path.endswith(".json") else digest
    return found


def _timeless(folder: Path, path: str) -> str:
    """Return a JSON file's content without times, and with paths as if all copies were one."""

    def keep(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: keep(value) for key, value in content.items() if key not in _TIMES}
        return [keep(value) for value in content] if isinstance(content, list) else content

    return json.dumps(keep(json.loads((folder / path).read_text())), sort_keys=True).replace(str(folder), "")


def is_temporary(path: str) -> bool:
    """Return whether a file's name is that of one being written."""
    return re.match(r"\..*\.tmp", Path(path).name) is not None


def is_whole(path: Path) -> bool:
    """Return whether a new file is a finished one: no temporary name, not empty, and readable as what it is called."""
    if is_temporary(path.name):
        return False
    appended = path.name == "log.txt" or "tfevents" in path.name or path.suffix == ".jsonl"
    if path.is_symlink() or not path.is_file() or path.name.startswith(".") or appended:
        return True
    if path.suffix not in READERS:
        return path.stat().st_size > 0
    try:
        READERS[path.suffix](path)
    except Exception:
        return False
    return True


def _picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _archive(path: Path) -> None:
    with np.load(path) as arrays:
        dict(arrays)


# Suffix -> what reads such a file, or fails.
READERS: dict[str, Callable[[Path], Any]] = {
    ".png": _picture,
    ".jpg": _picture,
    ".npz": _archive,
    ".npy": partial(np.load, allow_pickle=True),  # the published labels are a dictionary
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".yaml": lambda path: yaml.safe_load(path.read_text("utf-8")),
    ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".safetensors": load_file,
    ".csv": lambda path: list(csv.reader(path.read_text("utf-8").splitlines())),
}

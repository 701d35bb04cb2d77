"""Bring files into a data set's folder: as links (no space) or as copies; a stopped run continues."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_path
from utils.parallel import map_progress

LINK, COPY = "link", "copy"
# Links and small copies take microseconds: several travel to a process together.
_CHUNK = 64

# Existing file, name it gets.
Placement = tuple[Path, Path]


def place_files(placements: Sequence[Placement], how: str, *, workers: int, what: str) -> int:
    """Place every file under its new name; returns how many were not there yet.

    A link that points to the same file, and a copy of the same size and time, are kept. A folder of the data set that is
    itself a link to the sources' folder is left as it is.

    Args:
        placements: (source, target) pairs.
        how: "link" (symbolic) or "copy".
        workers: processes; 0 is one per core.
        what: label of the progress.

    Raises:
        UserError: for a target folder that leads to a foreign place, or a file that cannot be read or written.
    """
    for folder in {target.parent for _, target in placements}:
        folder.mkdir(parents=True, exist_ok=True)
    sources = {target.parent: source.parent for source, target in placements}
    linked = {folder for folder, source in sources.items() if folder.is_symlink() and folder.resolve() == source.resolve()}
    todo = [p for p in placements if p[1].parent not in linked]
    for folder in {target.parent for _, target in todo}:
        own_folder(folder)
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    return sum(map_progress(partial(_place_chunk, how), chunks, workers=1 if how == LINK else workers, what=what))


def check_sources(files: Sequence[Path], what: str) -> None:
    """Check that all files of one folder are there, listing it once.

    Raises:
        UserError: naming the first that is missing, and how many are.
    """
    folder = files[0].parent
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [path for path in files if path.name not in present]
    if missing:
        raise UserError(f"{missing[0]} is missing ({len(missing)} of {len(files)} {what} files are); complete the download")


def own_folder(folder: Path) -> Path:
    """Return `folder` (created), made sure to be a real one: writing through a link would change another data set.

    Raises:
        UserError: when it is a link.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link to {folder.resolve()}, which must not be written to; remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def up_to_date(target: Path, source: Path) -> bool:
    """Return whether `target` was made from the present `source`: it is a file of its own, and not older."""
    try:
        return not target.is_symlink() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _place_chunk(how: str, chunk: Sequence[Placement]) -> int:
    return sum(_place(source, target, how) for source, target in chunk)


def _place(source: Path, target: Path, how: str) -> bool:
    try:
        return _link(source, target) if how == LINK else _copy(source, target)
    except OSError as error:
        raise UserError(f"{source} cannot be placed at {target} ({error.strerror}); check both folders") from error


def _link(source: Path, target: Path) -> bool:
    place = _destination(source, target)
    if target.is_symlink() and str(target.readlink()) == place:
        return False
    with atomic_path(target, sync=False) as temporary:
        temporary.unlink()
        temporary.symlink_to(place)
    return True


def _destination(source: Path, target: Path) -> str:
    """Return what the link holds: a relative path inside one data set, so that it can be moved, else an absolute one."""
    real, root = source.resolve(), target.parent.parent.resolve()
    return os.path.relpath(real, target.parent.resolve()) if real.is_relative_to(root) else str(real)


def _copy(source: Path, target: Path) -> bool:
    found = source.stat()
    if target.exists() and not target.is_symlink():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
            return False
    with atomic_path(target, sync=False) as temporary:
        shutil.copy2(source, temporary)
    return True

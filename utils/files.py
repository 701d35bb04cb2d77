"""Files that appear whole or not at all, and folders that one running process owns at a time."""

import contextlib
import fcntl
import itertools
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import UserError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary file name beside `path` (same suffix); on success it becomes `path`, on failure it is removed.

    A process killed at any moment leaves the old `path` (or none), never half a file. Missing folders are created.

    Args:
        path: the file to write.
        sync: also force the bytes to the disk first, so that even a power failure cannot leave an empty file.

    Raises:
        UserError: when the folder cannot be created or written to.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.open("xb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose a folder you may write to") from error
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files killed processes left in `folder`; call it only while owning the folder."""
    for path in folder.glob(".*.tmp*"):
        path.unlink(missing_ok=True)


def visible(folder: Path) -> list[str]:
    """Return the sorted names in a folder, without hidden ones (locks, temporary files); none where it is missing."""
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))


def set_aside(folders: Sequence[Path], inputs: Sequence[str | Path]) -> list[Path]:
    """Rename folders to <folder>.old<n>, the same n for all of them, the first one that is free.

    Args:
        folders: those that are missing are left out.
        inputs: what must stay where it is.

    Returns:
        the new names.

    Raises:
        UserError: when one of `inputs` or the working directory lies in one of them, or it cannot be renamed.
    """
    there = [folder for folder in folders if folder.exists()]
    for folder, path in itertools.product(there, [Path.cwd(), *(Path(name) for name in inputs if str(name))]):
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder} cannot be set aside, for {path} lies in it; choose another folder")
    number = next(n for n in itertools.count(1) if not any(_aside(folder, n).exists() for folder in there))
    try:
        return [folder.rename(_aside(folder, number)) for folder in there]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be renamed ({error.strerror}); choose another folder") from error


def _aside(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}.old{number}")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Own `folder` (created if missing) while the block runs; the lock dies with the process, however it ends.

    Raises:
        UserError: when another running process owns it, or it cannot be created.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be used ({error.strerror}); choose one you may write to") from error
    try:
        _take_lock(descriptor, folder)
        try:
            yield
        finally:
            # Released by hand: forked loader workers share the descriptor and may live a moment longer.
            # The file stays; removing it would let a third process lock a file the second can no longer see.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "unknown"
        raise UserError(
            f"folder {folder} is in use by another running program ({owner}); wait for it to end or choose another folder"
        ) from error
    except OSError as error:
        raise UserError(f"folder {folder} cannot be locked ({error.strerror}); choose one on a local disk") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

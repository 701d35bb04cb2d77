"""Files that appear whole or not at all, and folders that one running process owns at a time."""

import contextlib
import errno
import fcntl
import glob
import itertools
import json
import os
import re
import secrets
import socket
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError, remedy

LOCK_NAME = ".lock"
PUBLISHED_FOLDERS = ("models", "pretrained", "deeplab/pretrained")
# Of temporary names: a process number says little on another machine.
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
# Full or failing disks: what is being written is meant, not what is being read for it.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ELSEWHERE = "choose a folder you may write to"
# How long a killed owner may take to give its memory back, seconds; its lock goes last.
_DYING = 60.0


def weight_file(path: str | Path) -> Path:
    """Return `path` or, where only that is there, its name with the suffix twice or once (CRT reads x.pth.pth).

    Else the file of its name in a folder where published programs keep weights.
    """
    path = Path(path)
    if not path.name:
        return path
    twice, once = path.with_name(path.name + path.suffix), path.with_name(path.stem)
    others = [other for other in (twice, once) if path.suffix and other.suffix == path.suffix and other.is_file()]
    others += [place for folder in PUBLISHED_FOLDERS if (place := Path(folder, path.name)).is_file()]
    return path if path.exists() or not others else others[0]


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary file name beside `path` (same suffix); on success it becomes `path`, on failure it is removed.

    A process killed at any moment leaves the old `path` (or none), never half a file. Missing folders are created.

    Args:
        path: the file to write.
        sync: also force the bytes to the disk first, so that even a power failure cannot leave an empty file.

    Raises:
        UserError: when the folder cannot be created or written to, or the disk is full.
    """
    if not path.name:
        raise UserError(f"'{path}' is no name of a file to write; give one")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{_HOST}{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sync:  # the others are many, in folders whose owner removes all
            _remove_dead(path)
        temporary.open("xb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy(error.errno, _ELSEWHERE)}") from error
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK:
            raise UserError(f"{path} cannot be written ({error.strerror}); {remedy(error.errno, _ELSEWHERE)}") from error
        raise
    if sync:
        _sync(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def only_file(path: Path) -> Path:
    """Return `path`, of a file; a pipe's writer would be waited for, for ever. Raises OSError when it is none."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file but a folder, pipe or device", str(path))
    return path


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return what `json.loads` does; content nested too deeply for it is a ValueError, as all other damage."""
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _remove_dead(path: Path) -> None:
    """Remove what killed processes of this machine left of their tries to write `path`."""
    for old in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
        owner = re.search(rf"\.(\d+)-{_HOST}[0-9a-f]{{8}}\.tmp", old.name)
        if owner and not Path("/proc", owner[1]).exists():
            old.unlink(missing_ok=True)


def remove_leftovers(folder: Path, stem: str = "*") -> None:
    """Delete temporary files of `stem` that killed processes left in `folder`; call it only while no other writes them."""
    for path in folder.glob(f".{stem}.*.tmp*"):
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


# Open descriptors of folders this process owns.
_owned: set[int] = set()


def _disown() -> None:
    """Let go in a forked child (a loader worker): with its copy open, a killed owner's folder would stay locked."""
    for descriptor in _owned:
        os.close(descriptor)
    _owned.clear()


os.register_at_fork(after_in_child=_disown)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Own `folder` (created if missing) while the block runs; the lock dies with the process, however it ends.

    What killed processes left half written in the folder itself (not in folders inside) is removed first.

    Raises:
        UserError: when another running process owns it, or it cannot be created.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be used ({error.strerror}); choose one you may write to") from error
    _owned.add(descriptor)
    try:
        _take_lock(descriptor, folder)
        remove_leftovers(folder)
        yield
    finally:
        # The file stays; removing it would let a third process lock a file the second can no longer see.
        _owned.discard(descriptor)
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _DYING
    while not _locked(descriptor, folder):
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "unknown"
        if not _has_died(owner) or time.monotonic() > deadline:
            raise UserError(
                f"folder {folder} is in use by another running program ({owner}); wait for it to end or choose another folder"
            )
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _locked(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"folder {folder} cannot be locked ({error.strerror}); choose one on a local disk") from error
    return True


def _has_died(owner: str) -> bool:
    """Return whether a lock's owner was a process of this machine that has ended, or is ending and has no memory left."""
    match = re.fullmatch(r"process (\d+) on (.*)", owner)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        return not Path("/proc", match[1], "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

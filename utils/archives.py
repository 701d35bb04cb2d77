"""Official downloads as tar archives or unpacked folders: either way a folder with the wanted files comes out."""

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.files import atomic_path, write_text_atomic
from utils.run_log import progress

# Parts of a member's path -> whether it is needed.
Wanted = Callable[[Sequence[str]], bool]


def open_source(path: Path, unpack_to: Path, wanted: Wanted) -> Path:
    """Return `path` itself when it is a folder; of a tar archive unpack the wanted files and return their folder.

    Unpacking continues where an interrupted one stopped and is not repeated for the same archive.

    Args:
        path: folder or .tar, .tar.gz, .tgz file.
        unpack_to: folder for an archive's files; they keep their paths inside the archive.
        wanted: which members to unpack.

    Raises:
        UserError: when `path` is neither, the archive is damaged, or the disk is full.
    """
    if path.is_dir():
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist; give the downloaded tar archive or the unpacked folder")
    if not tarfile.is_tarfile(path):
        raise UserError(f"{path} is neither a folder nor a tar archive; download it again or unpack it and give the folder")
    mark = unpack_to / "unpacked.json"
    stamp = {"archive": path.name, "size": path.stat().st_size, "time": path.stat().st_mtime_ns}
    if _read(mark) != stamp:
        _unpack(path, unpack_to, wanted)
        write_text_atomic(mark, json.dumps(stamp) + "\n")
    return unpack_to


def find_folder(start: Path, candidates: Sequence[str], needs: Sequence[str], what: str) -> Path:
    """Return the first of `start / candidate` that has all entries of `needs`.

    Raises:
        UserError: when none has.
    """
    for candidate in candidates:
        folder = start / candidate
        if all((folder / name).exists() for name in needs):
            return folder
    raise UserError(f"{start} is no {what}: expected {' and '.join(needs)} in it; give the folder that holds them")


def _read(mark: Path) -> object:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _unpack(path: Path, into: Path, wanted: Wanted) -> None:
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive if m.isfile() and _safe(m.name) and wanted(PurePosixPath(m.name).parts)]
            for member in progress(members, len(members), f"unpack {path.name}"):
                _extract(archive, member, into)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be unpacked into {into} ({error}); is it complete, and the disk not full?") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    target = into / member.name
    if target.exists() and target.stat().st_size == member.size:
        return
    content = archive.extractfile(member)
    assert content is not None  # regular files only
    with content, atomic_path(target, sync=False) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(content, file)


def _safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not PurePosixPath(name).is_absolute() and ".." not in parts

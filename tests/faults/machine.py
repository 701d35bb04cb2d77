"""Faults of the machine: disks, descriptors, file systems, signals, and commands that are repeated."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.mill import AFTER, REFUSED, SAME, SOUND, STOPPED, WHOLE, Fault, Program

Condition = Callable[[], None]
OUT = Path("out")
# Rights of root (capabilities) for which nothing is unreadable or read-only: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
_RIGHTS = (1, 2)


def file_size(limit: int) -> None:
    """No file may become larger, bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def open_files(limit: int) -> None:
    """Files may get numbers below this; 0 to 2 and some more are taken."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _fail(number: int, *_: Any, **__: Any) -> NoReturn:
    raise OSError(number, os.strerror(number))


def no_hard_links() -> None:
    """As exFAT, and many network file systems."""
    os.link = partial(_fail, errno.EPERM)


def no_locks() -> None:
    """As network file systems without a lock service."""
    fcntl.flock = partial(_fail, errno.ENOLCK)


def folder_in_use() -> None:
    """Another process holds every lock."""
    fcntl.flock = partial(_fail, errno.EWOULDBLOCK)


def no_sync() -> None:
    """The disk tells at the end that it could not write."""
    os.fsync = partial(_fail, errno.EIO)


def no_rename() -> None:
    """Files cannot be put in place."""
    Path.replace = partial(_fail, errno.EIO)  # type: ignore[method-assign]


def screen_full() -> None:
    """Standard output goes to a disk that is full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def screen_gone() -> None:
    """The reader of standard output has left."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def no_temporary_folder() -> None:
    """TMPDIR leads nowhere."""
    os.environ["TMPDIR"] = "/nowhere"


def small_disk(kibibytes: int) -> None:
    """`out` is a disk of its own, of this size; what it holds at the end is copied to `out/seen`."""
    OUT.mkdir(exist_ok=True)
    below = os.open(OUT, os.O_RDONLY)
    _mount_in_private(f"size={kibibytes}k", str(OUT.resolve()))
    AFTER.append(partial(_keep, below))


def _keep(below: int) -> None:
    shutil.copytree(OUT, f"/proc/self/fd/{below}/seen", symlinks=True)


def small_shared_memory() -> None:
    """/dev/shm has 64 KiB."""
    _mount_in_private("size=64k", "/dev/shm")


def _mount_in_private(option: str, place: str) -> None:
    """Mount a disk in memory that only this process and its children see."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, rec_private = 0x00020000, (1 << 14) | (1 << 18)
    if libc.unshare(clone_newns) or libc.mount(b"none", b"/", None, rec_private, None):
        raise OSError(ctypes.get_errno(), "a mount of its own")
    if libc.mount(b"none", place.encode(), b"tmpfs", 0, option.encode()):
        raise OSError(ctypes.get_errno(), "mount")


@cache
def can_mount() -> bool:
    """Return whether disks can be mounted here (as root)."""
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


def as_nobody() -> None:
    """Without the rights of root, for which nothing is read-only; its files it keeps."""
    if os.geteuid() != 0:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for number in _RIGHTS:
        libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: nor do programs that are started have it
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):  # effective, permitted, inheritable
        sets[place] &= ~sum(1 << number for number in _RIGHTS)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def signal_at(number: int, name: int, *, after: bool = False) -> None:
    """Send this process the signal `name` when it is about to put its `number`-th file in place, or right after."""
    calls, replace = count(1), Path.replace

    def counted(path: Path, target: Any) -> Path:
        mine = next(calls) == number
        if mine and not after:
            os.kill(os.getpid(), name)
        done = replace(path, target)
        if mine and after:
            os.kill(os.getpid(), name)
        return done

    Path.replace = counted  # type: ignore[method-assign,assignment]


def _read_only(folder: Path) -> None:
    (folder / OUT).mkdir(exist_ok=True)
    (folder / OUT).chmod(0o555)


def _file_for_folder(folder: Path) -> None:
    (folder / OUT).write_text("a file")


def _unreadable(path: str, folder: Path) -> None:
    (folder / path).chmod(0)


SIZES = (0, 100, 2_000, 20_000, 100_000, 400_000)
DISKS = (4, 16, 64, 256, 1024)
DESCRIPTORS = (3, 6, 8, 10, 12, 14, 16, 20, 26)
PLACES = (1, 2, 3, 5, 8, 13)


def machine_faults(program: Program) -> Iterator[Fault]:
    """Yield what can go wrong with the machine while a program runs."""

    def fault(kind: str, name: str, *conditions: Condition, **more: Any) -> Fault:
        return Fault(kind, name, program, conditions=conditions, **{"expect": SAME, **more})

    for limit in SIZES:
        yield fault("disk full", f"files of at most {limit} bytes", partial(file_size, limit))
    if can_mount() and program.writes == ("out",):
        for size in DISKS:
            yield fault("disk full", f"a disk of {size} KiB", partial(small_disk, size), expect=WHOLE)
    if can_mount() and "data.workers=2" in program.arguments:
        yield fault("disk full", "64 KiB of shared memory for loader processes", small_shared_memory)
    for limit in DESCRIPTORS:
        yield fault("descriptors", f"file numbers below {limit}", partial(open_files, limit))
    yield fault("file system", "no hard links", no_hard_links, expect=SOUND)
    yield fault("file system", "no locks", no_locks)
    yield fault("file system", "another program works in the folder", folder_in_use)
    yield fault("file system", "an error when bytes are forced to the disk", no_sync)
    yield fault("file system", "an error when a file is put in place", no_rename)
    yield fault("file system", "no folder for temporary files", no_temporary_folder)
    yield fault("output", "a full disk behind the screen", screen_full)
    yield fault("output", "nobody reads the screen", screen_gone)
    if "out" in program.writes:
        yield fault("rights", "a read-only folder", as_nobody, spoil=_read_only, expect=REFUSED, names=("out",))
        yield fault("rights", "a file where the folder should be", spoil=_file_for_folder, expect=REFUSED, names=("out",))
    for path in program.reads:
        yield fault("rights", f"{path} may not be read", as_nobody, spoil=partial(_unreadable, path), names=(Path(path).stem,))
    for number in PLACES:
        for after in (False, True):
            where = f"{'after' if after else 'before'} file {number} is in place"
            killed = (partial(signal_at, number, signal.SIGKILL, after=after),)
            yield fault("kill -9, again", where, before=killed, again=program.again, expect=SOUND)
    for number in PLACES[::2]:
        for name in (signal.SIGTERM, signal.SIGINT):
            before = (partial(signal_at, number, name),)
            yield fault("stopped, again", f"{name.name} at file {number}", before=before, again=program.again, expect=SOUND)
            yield fault("stopped", f"{name.name} at file {number}", *before, expect=STOPPED)
    yield fault("again", "the same command twice", before=(_nothing,), expect=program.rerun)


def _nothing() -> None:
    """Change nothing."""

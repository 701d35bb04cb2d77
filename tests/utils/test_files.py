import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import LOCK_NAME, atomic_path, lock_folder, parse_json, remove_leftovers, weight_file, write_text_atomic


def test_a_doubled_suffix_is_found_either_way(tmp_path: Path) -> None:
    path, doubled = tmp_path / "deits_cam.pth", tmp_path / "deits_cam.pth.pth"
    assert weight_file(path) == path
    doubled.write_bytes(b"")
    assert weight_file(path) == doubled == weight_file(str(doubled))
    path.write_bytes(b"")
    assert weight_file(path) == path
    doubled.unlink()
    assert weight_file(doubled) == path
    assert weight_file(tmp_path / "none") == tmp_path / "none"


def test_success_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text_atomic(path, "one")
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path, sync=False) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, pathlib\nfrom utils.files import atomic_path\n"
        f"with atomic_path(pathlib.Path({str(path)!r})) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    with atomic_path(path) as mine:  # the next writer removes what the dead one left, but nothing of the living
        mine.write_text("new")
        assert not left.exists()
        write_text_atomic(path, "between")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/a.txt cannot be written"):
        write_text_atomic(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(UserError, match="cannot be used"), lock_folder(tmp_path / "file" / "folder"):
        pass


def test_lock_excludes_and_is_released(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for _ in range(2):
        with lock_folder(folder):
            with pytest.raises(UserError, match=f"{folder} is in use .*process {os.getpid()}"), lock_folder(folder):
                pass
            with lock_folder(tmp_path / "other"):
                pass


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\nfrom utils.files import lock_folder\n"
        f"with lock_folder(pathlib.Path({str(tmp_path)!r})):\n    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), lock_folder(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    time.sleep(0.01)
    with lock_folder(tmp_path):
        pass


def test_a_forked_child_does_not_keep_a_killed_owner_s_lock(tmp_path: Path) -> None:
    """Loader workers are such children, and live a little longer."""
    code = (
        "import os, pathlib, time\nfrom utils.files import lock_folder\n"
        f"with lock_folder(pathlib.Path({str(tmp_path)!r})):\n"
        "    child = os.fork()\n    if child: print(child, flush=True)\n    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    try:
        os.kill(child, 0)  # it is there
        with lock_folder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_dead_owner_s_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes a killed process's memory first, which may last, and its locks last."""
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    dying = os.open(tmp_path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(dying, fcntl.LOCK_EX)
    os.pwrite(dying, f"process {dead.pid} on {socket.gethostname()}\n".encode(), 0)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            fcntl.flock(dying, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", sleep)
    with lock_folder(tmp_path):
        assert len(waits) == 3
    fcntl.flock(dying, fcntl.LOCK_EX)
    os.pwrite(dying, f"process {dead.pid} on another-machine\n".encode(), 0)
    with pytest.raises(UserError, match="in use by another running program .* on another-machine"), lock_folder(tmp_path):
        pass
    os.close(dying)


def test_an_owner_removes_what_killed_processes_left(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a.png", ".hidden", "a.tmp.png")]
    left = [tmp_path / name for name in (".a.12-0f.tmp.png", ".a_crf.7-1e.tmp.json")]
    for path in [*kept, *left]:
        path.touch()
    remove_leftovers(tmp_path, "a")
    assert not left[0].exists() and left[1].exists()
    with lock_folder(tmp_path):
        assert not left[1].exists() and all(path.exists() for path in kept)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"a\.txt cannot be written .*run the same command again"), atomic_path(path):
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_nested_too_deeply_is_damage() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)

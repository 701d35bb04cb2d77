import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import atomic_path, lock_folder, write_text_atomic


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

"""What a user sees of an error."""

import errno
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from utils.errors import UserError, fault, run_program

WRAPPED = """Caught UserError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 1, in load
utils.errors.UserError: image a.jpg cannot be decoded"""


@pytest.mark.parametrize("message", ["image a.jpg cannot be decoded", WRAPPED])
def test_one_sentence_and_exit_code_2(
    message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["program"])

    def fail(argv: list[str]) -> None:
        raise UserError(message)

    with pytest.raises(SystemExit) as caught:
        run_program(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: image a.jpg cannot be decoded\n"


IN_A_LOADER = """Caught OSError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 1, in load
OSError: [Errno 24] Too many open files"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.npz"), "a.npz: No space left on device; free disk space"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free space on the disk or, for loader"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; check that it is there"),
        (OSError(IN_A_LOADER), r"Too many open files; allow more \(ulimit -n 4096\)"),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "ulimit -n 4096"),
        (RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 24."), "too many open files"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a loader process was killed"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "/dev/shm.* is full; .*data.workers"),
        (RuntimeError("unable to write to file </torch_9_8_7>: No space left on device (28)"), "/dev/shm.* is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; use fewer"),
        (MemoryError(), "out of memory; use fewer"),
        (RuntimeError("[x/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), "another process of this run has ended"),
    ],
)
def test_faults_of_the_machine_get_one_sentence(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fail(argv: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_program(fail)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert re.search(told, message), message


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), KeyError("k"), RecursionError("deep")])
def test_mistakes_of_ours_keep_their_place(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fail(argv: list[str]) -> None:
        raise error

    assert fault(error) is None
    with pytest.raises(type(error)):
        run_program(fail)


def _program(body: str) -> str:
    return f"from utils.errors import run_program\ndef main(argv):\n    {body}\nrun_program(main)"


def test_what_cannot_be_printed_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        code = _program("print('text')")
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device") and done.stderr.count("\n") == 1


def test_a_fault_in_a_library_s_thread_is_not_told_twice() -> None:
    """TensorBoard writes in a thread, which hands its error on to the main one."""
    body = (
        "import threading; e = OSError(28, 'No space left on device')\n"
        "    def write(): raise e\n"
        "    t = threading.Thread(target=write); t.start(); t.join()\n"
        "    raise e"
    )
    done = subprocess.run([sys.executable, "-c", _program(body)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    body = f"import pathlib, utils.runtime.log as log; log.get_logger(pathlib.Path({str(tmp_path)!r})).info('line')"
    done = subprocess.run([sys.executable, "-c", _program(body)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr

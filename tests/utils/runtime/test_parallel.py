import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from operator import itemgetter
from typing import Any

import pytest

from utils.errors import UserError, fault
from utils.runtime.parallel import cores, map_progress, start_loader_worker


def square(value: int) -> int:
    time.sleep(0.01 * (value % 3))  # later ones finish earlier
    return value * value


def thread_settings(_: int) -> tuple[int, str | None]:
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def fail_at(bad: int, error: type[Exception], value: int) -> int:
    if value == bad:
        raise error(f"file {value}.png is wrong")
    return value


def full_at(bad: int, value: int) -> int:
    if value == bad:
        raise OSError(errno.ENOSPC, "No space left on device", f"{value}.png")
    return value


def die_at(bad: int, value: int) -> int:
    if value == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(map_progress(square, range(20), workers=workers, what="square")) == [v * v for v in range(20)]


def test_nothing_to_do_and_all_cores() -> None:
    assert list(map_progress(square, [], workers=0, what="square")) == []
    assert cores() >= 1


def test_workers_use_one_thread() -> None:
    assert set(map_progress(thread_settings, range(2), workers=2, what="look")) == {(1, "1")}


@pytest.mark.parametrize("workers", [1, 2])
def test_user_errors_come_through_unchanged(workers: int) -> None:
    with pytest.raises(UserError, match=r"^file 3.png is wrong$"):
        list(map_progress(partial(fail_at, 3, UserError), range(9), workers=workers, what="read"))


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_of_the_machine_are_one_sentence_without_a_traceback(workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^write failed at 3: 3\.png: No space left on device; free disk space"):
        list(map_progress(partial(full_at, 3), range(9), workers=workers, what="write"))
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("workers", [1, 2])
def test_other_errors_name_the_item(workers: int) -> None:
    with pytest.raises(UserError, match=r"^read failed at 3: KeyError: 'file 3.png is wrong'$"):
        list(map_progress(partial(fail_at, 3, KeyError), range(9), workers=workers, what="read"))


def test_killed_worker_is_an_error() -> None:
    with pytest.raises(UserError, match=r"read: a worker process died"):
        list(map_progress(partial(die_at, 1), range(4), workers=2, what="read"))


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("utils.runtime.log.SECONDS_BETWEEN_LINES", 0.0)
    list(map_progress(square, range(3), workers=1, what="square"))
    assert "square: 3/3" in capsys.readouterr().err


class _Unsendable:
    """Pickled, as what a worker hands on is, it has no file descriptor or no shared memory left."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error


class _Samples:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> _Unsendable:
        return _Unsendable(self.error)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError("unable to allocate shared memory (shm) for file </torch_1_2>: Success (0)"), "/dev/shm"),
    ],
)
def test_a_loader_worker_that_cannot_hand_on_a_batch_ends_and_is_not_waited_for(error: Exception, told: str) -> None:
    from torch.utils.data import DataLoader

    # Its time limit is for the test's sake: without it the loader would wait for ever.
    loader: DataLoader[Any] = DataLoader(
        _Samples(error),  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=itemgetter(0),
        worker_init_fn=start_loader_worker,
        timeout=120,
    )
    with pytest.raises(RuntimeError, match="exited unexpectedly") as caught:
        list(loader)
    sentence = fault(caught.value)
    assert sentence is not None and (told in sentence or "a loader process was killed" in sentence)


def test_a_process_leaves_with_the_one_that_started_it() -> None:
    """As those of torchrun do, which is no multiprocessing parent of theirs."""
    child = "import time; from utils.runtime.parallel import leave_with_parent; leave_with_parent(); print(); time.sleep(600)"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not _runs(number):
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("it stayed")


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True

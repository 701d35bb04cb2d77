import os
import signal
import time
from functools import partial

import pytest

from utils.errors import UserError
from utils.runtime.parallel import cores, map_progress


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

"""Reading speeds of runs, and the tables made of them."""

from pathlib import Path

import pytest

from benchmarks import user_speed
from benchmarks.program_runs import launch, logged_values, training_speed
from benchmarks.two_processes import table

LOG = """
x epoch 0 batch 4/4 lr 0.1 kd 1 images_per_second 99 memory_gib 1
x epoch 1 batch 4/4 lr 0.1 kd 1 images_per_second 77 memory_gib 1
x 6 images, 3 classes
x epoch 0 batch 4/4 lr 0.1 kd 1 images_per_second 5 memory_gib 1
x epoch 1 batch 4/4 lr 0.1 kd 1 images_per_second 8 memory_gib 1.5
x epoch 2 batch 4/4 lr 0.1 kd 1 images_per_second 1e+01 memory_gib 2
"""


def test_first_epoch_and_earlier_runs_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(LOG)
    assert logged_values(tmp_path, "memory_gib") == [1.5, 2.0]
    assert training_speed(tmp_path) == 9.0


def test_table_of_two_processes() -> None:
    text = table({"training": {1: [2.0, 2.0, 4.0], 2: [3.0, 4.0, 4.0]}})
    assert "| training | 2 images/s | 4 images/s | 1.50x | 1.00-2.00 |" in text


def test_user_speed_runs_both_programs() -> None:
    text = user_speed.run("tiny", ["train.batch_size=6"])
    assert "| training |" in text and "| CAM inference |" in text


def test_failing_program_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"scripts\.train_l2g .*no_such_key"):
        launch("scripts.train_l2g", "configs/l2g_demo.yaml", ["no_such_key=1"])

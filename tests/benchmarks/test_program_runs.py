"""Reading speeds of runs, and the tables made of them."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import plain_run, plain_segment, user_speed
from benchmarks.program_runs import launch, logged_values, rate_of_files, repeat_set, run_module, training_speed, write_set
from benchmarks.two_processes import table
from benchmarks.user_speed import Measured
from utils.data.images import read_cam
from utils.data.lists import read_label_list

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


def test_user_speed_runs_programs_and_their_plain_twins() -> None:
    text = user_speed.run("tiny", ["train.batch_size=6"], stages=("train", "infer"))
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()[2:]}
    assert set(rows) == {"train", "infer"}
    assert all(float(cell) > 0 for row in rows.values() for cell in row[1:3])


def test_plain_file_stages_have_a_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, 3, (64, 48))
    for stage in ("sweep", "labels"):
        plain_run.main([stage, str(tmp_path), "--images", "3"])
        assert float(capsys.readouterr().out) > 0
    assert len(list((tmp_path / "plain_labels").glob("*.png"))) == 3


@pytest.mark.skipif(find_spec("pydensecrf") is None, reason="pydensecrf is optional")
def test_plain_segmentation_trains_tests_and_refines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, 3, (64, 48))
    small = ["--images", "3", "--batch", "1", "--crop", "33", "--blocks", "1", "1", "1", "1", "--workers", "1"]
    for stage in ("train", "test"):
        plain_segment.main([stage, str(tmp_path), *small])
        assert float(capsys.readouterr().out) > 0
    assert len(list((tmp_path / "logit").glob("*.npy"))) == 3
    assert float(run_module("benchmarks.plain_segment", ["crf", str(tmp_path), *small])) > 0


def test_rate_of_a_folder_leaves_out_the_start(tmp_path: Path) -> None:
    for index, second in enumerate([100, 190, 191, 192, 193, 194, 195, 196]):
        path = tmp_path / f"{index}.png"
        path.touch()
        os.utime(path, ns=(0, second * 10**9))
    assert rate_of_files(tmp_path) == 1.0  # 5 files in 5 seconds, after the first two


def test_repeated_set_is_links(tmp_path: Path) -> None:
    write_set(tmp_path / "data", 2, (32, 24))
    repeat_set(tmp_path / "data", tmp_path / "data" / "cams", tmp_path / "many", 3)
    labels = read_label_list(tmp_path / "many" / "train_cls.txt", 20)
    assert len(labels) == 6
    for image_id, classes in labels.items():
        assert read_cam(tmp_path / "many" / "cams" / f"{image_id}_{classes[0]}.png").shape == (24, 32)
        assert (tmp_path / "many" / "SegmentationClassAug" / f"{image_id}.png").is_file()


def test_full_run_is_the_sum_of_its_stages() -> None:
    measured = {
        "train": Measured(ours=100.0, plain=20.0, start=36.0, waited=0.25, memory=7.5, busy=[80, 90]),
        "infer": Measured(ours=50.0),
    }
    text = user_speed.table(measured, {"train": 360000, "infer": 90000})
    assert "| train | 20 | 100 | 5.00x | 36.0 | 25% | 85 % | 7.5 GiB | 1 h |" in text
    assert "| infer |  | 50 |  | 0.0 |  | not measured |  | 0.5 h |" in text
    assert "All stages above: 91 minutes" in text


def test_published_stages_are_named_alike() -> None:
    assert all(tuple(published.full) == user_speed.STAGES for published in user_speed.SETS.values())


def test_failing_program_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"scripts\.train .*no_such_key"):
        launch("scripts.train", "configs/l2g_demo.yaml", ["no_such_key=1"])

"""Runs of one setting are one row: which belong together, what differs between rows, the Markdown table."""

from pathlib import Path
from typing import Any

import pytest

from utils.report.groups import Group, group_runs, setting_differences, table
from utils.report.run import Run, read_run
from utils.runtime.cards import SCORED, SEGMENTATION_TRAINING, TRAINING, StageCard, write_card


def _run(root: Path, name: str, seed: int, miou: float = 0.5, /, **more: Any) -> Run:
    """Write the cards of a run of an invented method."""
    run = root / name
    settings = {
        "name": name, "run_dir": str(run), "seed": seed, "data.root": str(root / "data"), "cam.dir": f"{run}/ms", "sun.rays": 8,
        "data.image_dir": "a", "data.saliency_dir": "b", "data.label_dir": "c", "device": f"cuda:{seed}", **more,
    }  # fmt: skip
    write_card(run, StageCard("training", "Training", "x", TRAINING, "m", 4, 60.0 + 30 * seed, settings))
    write_card(run, StageCard("cam_train", "CAM", "x", SCORED, "m", 4, 2.0, settings, split="train", mean_iou=miou))
    return read_run(run)


def test_seeds_are_grouped_and_settings_are_not(tmp_path: Path) -> None:
    runs = [_run(tmp_path, f"sun_s{seed}", seed, 0.5 + seed / 10) for seed in range(3)]
    runs.insert(1, _run(tmp_path, "rain", 0, **{"sun.rays": 0}))
    groups = group_runs(runs)
    assert [[run.name for run in group.runs] for group in groups] == [["sun_s0", "sun_s1", "sun_s2"], ["rain"]]
    assert [group.label for group in groups] == ["sun", "rain"]
    text = table(groups).splitlines()
    assert text[0] == "| | CAM mIoU (train) | training, minutes |"
    assert text[2:] == ["| sun | 60.0 ± 10.0 | 1.5 ± 0.5 |", "| rain | 50.0 | 1.0 |"]
    assert table(groups, "sun").splitlines()[2:] == ["| sun | 60.0 ± 10.0 | 1.5 ± 0.5 |", "| rain | 50.0 (83 %) | 1.0 |"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["one"], "one"),
        (["l2g_seed0", "l2g_seed1"], "l2g"),
        (["demo_l2g", "demo1_l2g"], "demo*_l2g"),
        (["a", "b"], "a"),
    ],
)
def test_labels_are_what_names_share(tmp_path: Path, names: list[str], label: str) -> None:
    assert [group.label for group in group_runs([_run(tmp_path, name, 0) for name in names])] == [label]


@pytest.mark.parametrize(("key", "same"), [("name", True), ("seed", True), ("data.workers", True), ("model.width", False)])
def test_what_keeps_runs_apart(tmp_path: Path, key: str, same: bool) -> None:
    groups = group_runs([_run(tmp_path, "a", 0, **{key: 1}), _run(tmp_path, "b", 0, **{key: 2})])
    assert (len(groups) == 1) == same


def test_a_data_set_may_lie_elsewhere_but_must_be_the_same(tmp_path: Path) -> None:
    places = [str(tmp_path / place) for place in ("here/voc", "there/voc", "here/coco")]
    groups = group_runs([_run(tmp_path, f"r{i}", 0, **{"data.root": place}) for i, place in enumerate(places)])
    assert [len(group.runs) for group in groups] == [2, 1]


def test_a_segmentation_stage_some_runs_lack_keeps_none_apart_but_its_settings_do(tmp_path: Path) -> None:
    runs = []
    for index, rate in enumerate((None, 1.0, 2.0, 1.0)):
        _run(tmp_path, f"r{index}", index)
        if rate is not None:
            settings = {"dataset.root": "d", "dataset.image_dir": "a", "dataset.truth_dir": "b", "solver.lr": rate}
            card = StageCard("deeplab_train", "DeepLab training", "y", SEGMENTATION_TRAINING, "m", settings=settings)
            write_card(tmp_path / f"r{index}/deeplab", card)
        runs.append(read_run(tmp_path / f"r{index}"))
    assert [[run.name for run in group.runs] for group in group_runs(runs)] == [["r0", "r1", "r3"], ["r2"]]


def test_differences_leave_out_what_follows_from_the_name(tmp_path: Path) -> None:
    one, other = _run(tmp_path, "a", 0, x=1), _run(tmp_path, "b", 1)
    groups = [Group("A", [one]), Group("B", [other])]
    expected = [("seed", ["0", "1"]), ("device", ["cuda:0", "cuda:1"]), ("x", ["1", "not set"])]
    assert setting_differences(groups) == expected
    assert setting_differences([Group("A", [one, other]), Group("B", [one, other])]) == []

"""The table that puts runs side by side."""

from pathlib import Path

import pytest

from scripts.compare import main, run
from utils.errors import UserError
from utils.runtime.cards import LABELS, SCORED, TRAINING, StageCard, write_card


def _result(folder: Path, miou: float, seed: int = 0) -> Path:
    settings = {"seed": seed, "run_dir": str(folder), "name": folder.name}
    write_card(folder, StageCard("training", "Training", "scripts.train", TRAINING, "model", seconds=90, settings=settings))
    write_card(folder, StageCard("cam_train", "CAM", "scripts.evaluate_cams", SCORED, "ms", split="train", mean_iou=miou))
    labels = StageCard("pseudo_x_train", "Pseudo labels, x", "scripts.gen_gt", LABELS, "l", split="train", mean_iou=miou / 2)
    write_card(folder, labels)
    return folder


def test_rows_are_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    seeds = [_result(tmp_path / f"s{i}", value) for i, value in enumerate((0.5, 0.6, 0.7))]
    table = run([f"one={seeds[0]}", f"three={','.join(map(str, seeds))}"])
    assert "| | CAM mIoU (train) | Pseudo labels, x mIoU (train) | training, minutes |" in table
    assert "| one | 50.0 | 25.0 | 1.5 |" in table
    assert "| three | 60.0 ± 10.0 | 30.0 ± 5.0 | 1.5 ± 0.0 |" in table


def test_bare_folders_are_grouped_by_their_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = [_result(tmp_path / f"l2g_seed{i}", value, seed=i) for i, value in enumerate((0.5, 0.6, 0.7))]
    main([*map(str, seeds), "--out", str(tmp_path / "table.md")])
    assert "| l2g | 60.0 ± 10.0 | 30.0 ± 5.0 | 1.5 ± 0.0 |" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().count("\n") == 3


def test_a_stage_nobody_here_knows_is_a_column(tmp_path: Path) -> None:
    folder = _result(tmp_path / "a", 0.5)
    write_card(folder, StageCard("wish_val", "Wishing well", "elsewhere.wish", SCORED, "w", split="val", mean_iou=0.125))
    table = run([f"one={folder}", f"other={_result(tmp_path / 'b', 0.25)}"]).splitlines()
    assert table[0] == "| | CAM mIoU (train) | Wishing well mIoU (val) | Pseudo labels, x mIoU (train) | training, minutes |"
    assert table[2:] == ["| one | 50.0 | 12.5 | 25.0 | 1.5 |", "| other | 25.0 | – | 12.5 | 1.5 |"]


def test_expected_figures_stand_beside_measured_ones(tmp_path: Path) -> None:
    seeds = [_result(tmp_path / f"s{i}", value) for i, value in enumerate((0.5, 0.6))]
    for folder, value in zip(seeds, (0.60, 0.62), strict=True):
        for name, program in (("train_aug", "scripts.gen_gt"), ("train", "scripts.evaluate_labels")):
            card = StageCard(f"x_{name}", "Labels", program, LABELS, "l", split="train", mean_iou=value)
            card.list_file = f"/data/{name}.txt"
            write_card(folder, card)
        crf = StageCard("deeplab_crf_val", "DeepLab + CRF", "deeplab crf", LABELS + 9, "d", split="val", mean_iou=0.7)
        crf.list_file = "/data/whatever.txt"
        write_card(folder, crf)
    _, table = run([f"ours={seeds[0]},{seeds[1]}"], "l2g_voc").split("\n\n")
    lines = table.splitlines()
    assert lines[0] == "| stage | images | ours | expected | from |"
    assert lines[2].startswith("| pseudo labels | train | 61.0 ± 1.4 | 71.7 | a user's run")
    assert lines[3].startswith("| pseudo labels | train_aug | 61.0 ± 1.4 | 69.9 |")
    assert lines[4].startswith("| DeepLab v2, ResNet-101 | val | – | 68.9 |")
    assert lines[5].startswith("| DeepLab v2, ResNet-101 + CRF | val | 70.0 ± 0.0 | 71.3 |")
    with pytest.raises(UserError, match=r"--expected is voc, expected one of l2g_voc, l2g_coco"):
        run([f"ours={seeds[0]}"], "voc")
    with pytest.raises(UserError, match="--ceiling is masks, expected the label of a row: ours"):
        run([f"ours={seeds[0]}"], ceiling="masks")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        main(["runs/x"])
    with pytest.raises(UserError, match="run scripts.evaluate_cams"):
        run([f"empty={tmp_path}"])


def test_boxes_stand_in_a_column_for_each_way_their_weights_were_picked(tmp_path: Path) -> None:
    def boxes(run: Path, weights: str, picked: str, top1: float) -> None:
        settings = {"boxes.picked": picked, "cam.checkpoint": f"model/{weights}.pth"}
        card = StageCard(
            f"boxes_test_{weights}", f"Boxes ({weights})", "scripts.evaluate_boxes", SCORED, "b", settings=settings
        )
        card.split, card.scores = "test", {"Top-1 box": top1, "GT-known": 1 - top1}
        write_card(run, card)

    seeds = [_result(tmp_path / f"s{i}", 0.5) for i in range(2)]
    for run_dir, epochs in zip(seeds, ((0.5, 0.7), (0.9, 0.4)), strict=True):
        boxes(run_dir, "final", "last", 0.6)
        boxes(run_dir, "best", "held_out", 0.65)
        for epoch, top1 in enumerate(epochs):
            boxes(run_dir, f"epoch_{epoch}", "test", top1)
    _, table = run([f"CRT={seeds[0]},{seeds[1]}"]).split("\n\n")
    assert table.splitlines() == [
        "| | CRT, last epoch | CRT, picked on held-out images | CRT, picked on these images (not comparable) |",
        "| --- | --- | --- | --- |",
        "| weights | final | best | epoch_1, epoch_0 |",
        "| Top-1 box | 60.0 ± 0.0 | 65.0 ± 0.0 | 80.0 ± 14.1 |",
        "| GT-known | 40.0 ± 0.0 | 35.0 ± 0.0 | 20.0 ± 14.1 |",
    ]

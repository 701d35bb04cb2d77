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


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        main(["runs/x"])
    with pytest.raises(UserError, match="run scripts.evaluate_cams"):
        run([f"empty={tmp_path}"])

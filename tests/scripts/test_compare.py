"""The table that puts runs side by side."""

import json
from pathlib import Path

import pytest

from scripts.compare import main, run
from utils.errors import UserError


def _result(folder: Path, miou: float) -> Path:
    (folder / "ms").mkdir(parents=True)
    (folder / "pseudo_saliency").mkdir()
    (folder / "ms" / "result.json").write_text(json.dumps({"best": {"threshold": 0.2, "mean_iou": miou}}))
    (folder / "pseudo_saliency" / "pseudo_labels.json").write_text(json.dumps({"mean_iou": miou / 2}))
    return folder


def test_rows_are_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    seeds = [_result(tmp_path / f"s{i}", value) for i, value in enumerate((0.5, 0.6, 0.7))]
    table = run({"one": seeds[:1], "three": seeds})
    assert "| | CAM mIoU | labels mIoU (pseudo_saliency) |" in table
    assert "| one | 50.0 | 25.0 |" in table
    assert "| three | 60.0 ± 10.0 | 30.0 ± 5.0 |" in table


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not LABEL=RUN"):
        main(["runs/x"])
    with pytest.raises(UserError, match="run test_l2g"):
        run({"empty": [tmp_path]})

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.evaluation.plots import plot_class_iou, plot_confusion, plot_threshold_curve


@pytest.mark.parametrize("num_classes", [1, 20, 80])
def test_plots_are_whole_pictures(tmp_path: Path, num_classes: int) -> None:
    rng = np.random.RandomState(0)
    names = ["background", *(f"a class {k}" for k in range(num_classes))]
    iou = rng.rand(num_classes + 1)
    confusion = rng.randint(0, 99, (num_classes + 1, num_classes + 1))
    if num_classes > 1:
        iou[1], confusion[1] = np.nan, 0
    plot_class_iou(tmp_path / "new" / "iou.png", names, iou, 0.2)
    plot_confusion(tmp_path / "new" / "confusion.png", names, confusion, 0.2)
    for name in ("iou", "confusion"):
        with Image.open(tmp_path / "new" / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 400


def test_threshold_curve(tmp_path: Path) -> None:
    plot_threshold_curve(tmp_path / "curve.png", np.linspace(0.2, 0.5, 256), [])
    plot_threshold_curve(tmp_path / "curve.png", np.linspace(0.2, 0.5, 256), [0.1, 1.0])
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 600
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]

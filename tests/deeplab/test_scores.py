"""Scores against the published ones, and the files they are written to."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.scores import published_scores, write_scores

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"
KEYS = ("Pixel Accuracy", "Mean Accuracy", "Frequency Weighted IoU", "Mean IoU")


def _confusion() -> "np.ndarray":
    golden = np.load(GOLDEN / "scores.npz")
    pairs = zip(golden["gt"].astype(np.uint8), golden["pred"].astype(np.uint8), strict=True)
    return sum((confusion_matrix(truth, predicted, 5) for truth, predicted in pairs), np.zeros((6, 6), np.int64))


def test_scores_equal_published() -> None:
    golden = np.load(GOLDEN / "scores.npz")
    confusion = _confusion()
    np.testing.assert_array_equal(confusion, golden["hist"])
    scores = published_scores(confusion)
    expected = json.loads((GOLDEN / "scores_example.json").read_text())
    for key in KEYS:
        np.testing.assert_allclose(scores[key], expected[key], rtol=1e-12)
    iou = [float("nan") if v is None else v for v in scores["Class IoU"].values()]
    np.testing.assert_allclose(iou, golden["class_iou"], rtol=1e-12)


def test_score_files_are_strict_json_with_names(tmp_path: Path) -> None:
    names = ["background", "a", "b", "c", "d", "e"]
    for left in (".scores.7-0f.tmp.json", ".scores_confusion.7-0f.tmp.png", ".scores_crf.7-0f.tmp.json"):
        (tmp_path / left).touch()
    write_scores(tmp_path, "scores", _confusion(), names, {"Images": 3})
    # What a killed test left goes; the crf command may be writing its own this moment.
    assert [path.name for path in tmp_path.glob("*.tmp*")] == [".scores_crf.7-0f.tmp.json"]
    text = (tmp_path / "scores.json").read_text()
    content = json.loads(text, parse_constant=lambda name: 1 / 0)
    assert list(content["Class IoU"]) == ["0", "1", "2", "3", "4", "5"]
    assert content["Class IoU"]["5"] is None
    assert content["Class Names"] == names
    assert content["Images"] == 3
    assert "background" in (tmp_path / "scores.txt").read_text()
    with Image.open(tmp_path / "scores_confusion.png") as picture:
        assert min(picture.size) > 200


def test_nothing_labelled_gives_no_scores() -> None:
    scores = published_scores(np.zeros((3, 3), np.int64))
    assert all(scores[key] is None for key in KEYS)

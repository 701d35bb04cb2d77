import warnings
from pathlib import Path

import numpy as np

from utils.evaluation.metrics import activation_errors, confusion_matrix, nan_mean, score

SWEEP = np.load(Path(__file__).parents[2] / "golden" / "sa_cda" / "evaluate_sweep.npz")


def test_confusion_matrix_leaves_out_ignored_pixels_on_both_sides() -> None:
    truth = np.array([[0, 0, 1, 2], [1, 255, 2, 2]], np.uint8)
    prediction = np.array([[0, 1, 1, 255], [0, 1, 2, 2]], np.uint8)
    assert confusion_matrix(truth, prediction, 2).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 2]]


def test_score_by_hand_with_undefined_classes() -> None:
    # Class 2 is predicted but never true, class 3 is in neither.
    confusion = np.array([[6, 1, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.int64)
    scores = score(confusion)
    np.testing.assert_allclose(scores.iou, [6 / 9, 3 / 5, 0, np.nan])
    np.testing.assert_allclose(scores.precision, [6 / 7, 3 / 4, 0, np.nan])
    np.testing.assert_allclose(scores.recall, [6 / 8, 3 / 4, np.nan, np.nan])
    assert np.isclose(float(scores.mean_iou), (6 / 9 + 3 / 5) / 3)


def test_score_takes_many_matrices_at_once() -> None:
    matrices = np.random.RandomState(0).randint(0, 9, (5, 4, 4))
    together = score(matrices)
    for i in range(5):
        np.testing.assert_array_equal(together.iou[i], score(matrices[i]).iou)
        assert together.mean_iou[i] == score(matrices[i]).mean_iou


def test_nan_mean_equals_numpy_and_stays_silent() -> None:
    values = np.random.RandomState(1).rand(81)
    values[::3] = np.nan
    assert float(nan_mean(values)) == float(np.nanmean(values))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(nan_mean(np.full(3, np.nan)))


def _confusion(threshold: float) -> np.ndarray:
    """Label the fixture's maps against a background score and count."""
    total = np.zeros((21, 21), np.int64)
    for i in range(5):
        maps = SWEEP[f"hr_cam{i}"]
        scores = np.concatenate([np.full((1, *maps.shape[1:]), threshold, np.float32), maps])
        labels = SWEEP[f"keys{i}"][scores.argmax(axis=0)].astype(np.uint8)
        total += confusion_matrix(SWEEP[f"gt{i}"], labels, 20)
    return total


def test_published_sweep() -> None:
    """The published means count a class that occurs nowhere as 0; here it is left out, so its NaN stands for that 0."""
    for threshold, expected in zip(SWEEP["thresholds"], SWEEP["results"], strict=True):
        confusion = _confusion(threshold)
        scores = score(confusion)
        wrong, missed = activation_errors(confusion)
        iou = np.nan_to_num(scores.iou)
        found = [100 * iou.mean(), *(np.nan_to_num(v)[1:].mean() for v in (wrong, missed))]
        np.testing.assert_allclose([*found, iou[1:].mean()], expected[[0, 1, 2, 5]], rtol=1e-6)
        for values, column in ((scores.recall[1:], 3), (scores.precision[1:], 4)):
            if values[values == values].all():  # no class missed entirely
                np.testing.assert_allclose(np.nan_to_num(1 / values).mean(), expected[column], rtol=1e-6)
        np.testing.assert_allclose(wrong + missed, 1 - scores.iou, rtol=1e-12)
    np.testing.assert_allclose(100 * np.nan_to_num(score(_confusion(0.35)).iou), SWEEP["class_iou_at_0.35"], rtol=1e-6)

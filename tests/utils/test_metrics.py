import warnings

import numpy as np

from utils.metrics import confusion_matrix, nan_mean, score


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

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.evaluation_set import NUM_CLASSES, golden, golden_classes
from utils.cams.labels import fuse_threshold
from utils.cams.sweep import JointHistogram, first_level_above, winning_class
from utils.data.images import GREY_VALUES
from utils.evaluation.metrics import confusion_matrix, nan_mean, score


def plain_labels(
    classes: tuple[int, ...], cams: list[NDArray[np.uint8]], shape: tuple[int, int], num_classes: int, threshold: float
) -> NDArray[np.uint8]:
    """Return the published prediction: a float32 score for every label, argmax."""
    scores = np.zeros((num_classes + 1, *shape), np.float32)
    scores[0] = threshold
    for class_index, cam in zip(classes, cams, strict=True):
        scores[class_index + 1] = cam / 255.0
    return scores.argmax(axis=0).astype(np.uint8)


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_golden_sweep(dataset: str) -> None:
    arrays = golden()
    histogram = JointHistogram(NUM_CLASSES[dataset])
    for i, classes in enumerate(golden_classes(arrays, dataset)):
        histogram.add(arrays[f"{dataset}_gt_{i}"], classes, [arrays[f"{dataset}_att_{i}_{c}"] for c in classes])
    for i, threshold in enumerate(arrays[f"{dataset}_thresholds"].tolist()):
        confusion = histogram.confusion(threshold)
        scores = score(confusion)
        hits = np.diagonal(confusion)
        np.testing.assert_array_equal(hits, arrays[f"{dataset}_TP"][i])
        np.testing.assert_array_equal(confusion.sum(axis=0) - hits, arrays[f"{dataset}_FP"][i])
        np.testing.assert_array_equal(confusion.sum(axis=1) - hits, arrays[f"{dataset}_TN"][i])
        np.testing.assert_allclose(scores.iou, arrays[f"{dataset}_iou"][i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(scores.mean_iou, arrays[f"{dataset}_miou"][i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(nan_mean(scores.precision), arrays[f"{dataset}_mean_precision"][i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(nan_mean(scores.recall), arrays[f"{dataset}_mean_recall"][i], rtol=0, atol=1e-12)


def test_every_threshold_equals_a_pass_of_its_own() -> None:
    rng = np.random.RandomState(0)
    num_classes, histogram, images = 4, JointHistogram(4), []
    for classes in [(0, 2, 3), (1,), ()]:
        shape = (rng.randint(5, 20), rng.randint(5, 20))
        # Few values: many equal scores, among classes and with thresholds.
        cams = [(rng.randint(0, 6, shape) * 51).astype(np.uint8) for _ in classes]
        truth = rng.choice([0, 1, 2, 3, 4, 255], shape).astype(np.uint8)
        histogram.add(truth, classes, cams)
        images.append((truth, classes, cams))
    all_levels = histogram.confusions()
    for threshold in [0.0, 0.1, 0.2, 0.4, np.nextafter(0.2, 0), 1.0, *(k / 255 for k in range(0, 256, 17))]:
        expected = sum(
            confusion_matrix(truth, plain_labels(classes, cams, truth.shape, num_classes, threshold), num_classes)
            for truth, classes, cams in images
        )
        np.testing.assert_array_equal(histogram.confusion(threshold), expected)
        level = round(threshold * 255)
        if level / 255 == threshold:
            np.testing.assert_array_equal(all_levels[level], expected)


def test_thresholds_meet_eight_bit_values_as_in_float32() -> None:
    assert first_level_above(0.2) == 52  # 51 / 255 equals 0.2 in float32: background wins the tie
    assert first_level_above(0.25) == 64
    assert (first_level_above(0.0), first_level_above(1.0)) == (1, GREY_VALUES)
    assert [first_level_above(k / 255) for k in range(GREY_VALUES)] == [k + 1 for k in range(GREY_VALUES)]


def test_equal_maps_go_to_the_lower_class() -> None:
    cams = [np.full((2, 2), 9, np.uint8), np.array([[9, 10], [8, 9]], np.uint8), np.array([[9, 10], [11, 0]], np.uint8)]
    winner, value = winning_class(cams)
    assert winner.tolist() == [[0, 1], [2, 0]]
    assert value.tolist() == [[9, 10], [11, 9]]


def test_sparse_copies_add_up() -> None:
    rng = np.random.RandomState(3)
    parts = [JointHistogram(3), JointHistogram(3)]
    for part in parts:
        part.add(rng.randint(0, 4, (8, 9)).astype(np.uint8), (0, 2), list(rng.randint(0, 256, (2, 8, 9)).astype(np.uint8)))
    total = JointHistogram(3)
    for part in parts:
        total.merge_sparse(*part.to_sparse())
    np.testing.assert_array_equal(total.counts, parts[0].counts + parts[1].counts)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.25, 1.0])
def test_threshold_labels_equal_the_published_argmax(threshold: float) -> None:
    rng = np.random.RandomState(4)
    cams = [(rng.randint(0, 6, (12, 13)) * 51).astype(np.uint8) for _ in range(3)]
    expected = plain_labels((1, 5, 6), cams, (12, 13), 8, threshold)
    np.testing.assert_array_equal(fuse_threshold((1, 5, 6), cams, (12, 13), threshold), expected)

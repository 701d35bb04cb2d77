from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.cam_schema import PseudoConfig
from tests.evaluation_set import golden, golden_classes
from utils.cams.labels import fuse_saliency, fuse_threshold

RULE = PseudoConfig()


def exact_saliency_labels(
    classes: tuple[int, ...], cams: list[NDArray[np.uint8]], saliency: NDArray[np.uint8], counts: str
) -> NDArray[np.uint8]:
    """Follow the rule pixel by pixel in exact fractions."""
    labels = np.zeros(saliency.shape, np.uint8)
    for place in np.ndindex(saliency.shape):
        # A constant map scores 0: its numerator is 0, so any denominator does.
        raw = [Fraction(int(cam[place]) - int(cam.min()), max(int(cam.max()) - int(cam.min()), 1)) for cam in cams]
        scores = [1 - Fraction(int(saliency[place]), 255), *(s if s >= Fraction(3, 10) else Fraction(0) for s in raw)]
        best = max(range(len(scores)), key=lambda i: (scores[i], -i))
        labels[place] = 0 if best == 0 else classes[best - 1] + 1
        doubtful = saliency[place] >= 32 or any(s > Fraction(4, 5) for s in raw)
        counted = [scores[0], *raw] if counts == "all" else raw
        if sum(s > Fraction(9, 10) for s in counted) > 1 or (best == 0 and doubtful):
            labels[place] = 255
    if ((labels != 0) & (labels != 255)).sum() < Fraction(1, 100) * labels.size:
        labels[:] = 255
    return labels


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_golden_labels(dataset: str) -> None:
    arrays = golden()
    for i, classes in enumerate(golden_classes(arrays, dataset)):
        cams = [arrays[f"{dataset}_att_{i}_{c}"] for c in classes]
        labels = fuse_threshold(classes, cams, cams[0].shape, 0.25)
        np.testing.assert_array_equal(labels, arrays[f"{dataset}_gen_gt_{i}"])


def test_threshold_without_classes_is_all_background() -> None:
    assert fuse_threshold((), [], (3, 4), 0.25).tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("counts", ["all", "classes"])
@pytest.mark.parametrize("seed", range(6))
def test_saliency_rule_equals_exact_arithmetic(seed: int, counts: str) -> None:
    rng = np.random.RandomState(seed)
    classes = [(0,), (2, 7), (1, 3, 4), (0, 5), (6,), (0, 1)][seed]
    # Both full and narrow ranges, so that scores with other denominators than 255 occur as well as ties.
    highs = [255, 201, 41][: len(classes)]
    cams = [rng.randint(high // 10 if seed % 2 else 0, high + 1, (40, 50)).astype(np.uint8) for high in highs]
    saliency = rng.choice([0, 1, 25, 26, 31, 32, 76, 128, 200, 254, 255, *range(100, 255, 9)], (40, 50)).astype(np.uint8)
    found = fuse_saliency(classes, cams, saliency, replace(RULE, conflict_counts=counts))
    np.testing.assert_array_equal(found, exact_saliency_labels(classes, cams, saliency, counts))


def test_background_may_be_one_of_the_scores_in_conflict() -> None:
    """As published: a class above 0.9 where saliency is below 0.1. What came out as background is ignored either way."""
    saliency = np.array([[0, 20, 25, 26, 20, 255]], np.uint8)
    cam = np.array([[255, 255, 255, 255, 231, 0]], np.uint8)
    rule = replace(RULE, min_foreground=0.0)
    assert fuse_saliency((0,), [cam], saliency, rule).tolist() == [[255, 255, 255, 1, 255, 255]]
    assert fuse_saliency((0,), [cam], saliency, replace(rule, conflict_counts="classes")).tolist() == [[255, 1, 1, 1, 255, 255]]


def test_saliency_rule_case_by_case() -> None:
    cases = [  # saliency, CAM of class 0, CAM of class 4 -> label
        (0, 0, 0, 0),  # nothing anywhere
        (255, 255, 0, 1),  # salient and one class
        (200, 100, 255, 5),  # the higher class
        (255, 240, 245, 255),  # two classes above 0.9
        (31, 10, 10, 0),  # hardly salient
        (32, 10, 10, 255),  # salient, but no class above the floor
        (0, 230, 0, 255),  # a CAM above 0.8 where nothing is salient
        (128, 127, 0, 255),  # a tie with 1 - s is background, and salient
        (128, 128, 128, 1),  # a tie of classes goes to the lower
        (255, 76, 0, 255),  # below the floor: dropped
        (255, 77, 0, 1),  # just above it
    ]
    saliency, first, second, expected = (np.array(column, np.uint8)[None] for column in zip(*cases, strict=True))
    labels = fuse_saliency((0, 4), [first, second], saliency, RULE)
    assert labels.tolist() == expected.tolist()


def test_saliency_rule_scales_each_map_over_the_image() -> None:
    cam = np.array([[50, 60, 70, 90]], np.uint8)
    saliency = np.array([[0, 0, 255, 255]], np.uint8)
    assert fuse_saliency((2,), [cam], saliency, RULE).tolist() == [[0, 0, 3, 3]]
    flat = np.full((1, 4), 80, np.uint8)
    assert fuse_saliency((2,), [flat], saliency, RULE).tolist() == [[255] * 4]


def test_too_little_foreground_ignores_the_image() -> None:
    cam, saliency = np.zeros((10, 30), np.uint8), np.zeros((10, 30), np.uint8)
    cam[0, :3], saliency[0, :3] = 255, 255
    assert (fuse_saliency((0,), [cam], saliency, RULE) == 1).sum() == 3  # exactly 1 % is enough
    assert (fuse_saliency((0,), [cam], saliency, replace(RULE, min_foreground=0.011)) == 255).all()
    assert (fuse_saliency((), [], saliency, RULE) == 255).all()
    assert (fuse_saliency((), [], saliency, replace(RULE, min_foreground=0.0))[1:] == 0).all()


def test_constants_are_settings() -> None:
    cam = np.array([[0, 100, 220, 255]], np.uint8)
    saliency = np.array([[0, 40, 40, 255]], np.uint8)
    assert fuse_saliency((0,), [cam], saliency, RULE).tolist() == [[0, 255, 1, 1]]
    loose = replace(RULE, salient=256, cam_salient=1.0)
    assert fuse_saliency((0,), [cam], saliency, loose).tolist() == [[0, 0, 1, 1]]
    assert fuse_saliency((0, 1), [cam, cam], saliency, RULE).tolist() == [[0, 255, 1, 255]]
    assert fuse_saliency((0, 1), [cam, cam], saliency, replace(RULE, conflict=1.0)).tolist() == [[0, 255, 1, 1]]


def test_refined_scores_decide() -> None:
    """The refiner gets normalised scores, background first, and its highest class is the label."""
    given = []

    def favour_last(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        given.append(probabilities)
        changed = probabilities.copy()
        changed[-1, :, 1] = 2
        return changed

    cams = [np.array([[255, 255, 0]], np.uint8), np.array([[0, 51, 0]], np.uint8)]
    labels = fuse_threshold((1, 6), cams, (1, 3), 0.25, favour_last)
    assert labels.tolist() == [[2, 7, 0]]
    np.testing.assert_allclose(given[0][:, 0, 0], [0.2, 0.8, 0])
    np.testing.assert_allclose(given[0].sum(0), 1, rtol=1e-6)
    assert fuse_threshold((), [], (1, 3), 0.25, favour_last).tolist() == [[0, 0, 0]]


def test_refined_saliency_rule_still_ignores() -> None:
    cams = [np.array([[0, 255, 255, 0]], np.uint8), np.array([[0, 0, 255, 0]], np.uint8)]
    saliency = np.array([[0, 255, 255, 255]], np.uint8)
    same = fuse_saliency((0, 4), cams, saliency, RULE, lambda probabilities: probabilities)
    # A salient pixel without any score is no class's: equal shares, and background is the first.
    assert same.tolist() == fuse_saliency((0, 4), cams, saliency, RULE).tolist() == [[0, 1, 255, 255]]
    second = fuse_saliency((0, 4), cams, saliency, RULE, lambda probabilities: probabilities[[0, 2, 1]])
    assert second.tolist() == [[0, 5, 255, 255]]


@pytest.mark.parametrize("seed", range(3))
def test_refiner_that_changes_nothing(seed: int) -> None:
    rng = np.random.RandomState(seed)
    cams = [rng.randint(0, 256, (40, 50)).astype(np.uint8) for _ in range(2)]
    # No value of 255 - saliency that a scaled CAM can equal: dividing by the sum must not have to keep ties.
    saliency = rng.choice([10, 200], (40, 50)).astype(np.uint8)
    rule = replace(RULE, min_foreground=0.0)
    refined = fuse_saliency((0, 3), cams, saliency, rule, lambda probabilities: probabilities)
    assert (refined == fuse_saliency((0, 3), cams, saliency, rule)).mean() > 0.98

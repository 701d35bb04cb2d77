"""Boxes of maps and localisation scores against numbers of the published program, and against plain loops."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.evaluation.boxes import (
    DETAILS,
    NO_BOX,
    OVERLAPS,
    BestThreshold,
    PixelPrecision,
    box_on_grid,
    boxes_at_all_levels,
    grey_map,
    judge,
    largest_box,
    overlaps,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "crt"
SIZE = (224, 224)


def _golden(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def _truth(text: str) -> np.ndarray:
    return np.array(text.split(), np.int64).reshape(-1, 4)


def test_boxes_of_cub_on_the_resized_picture() -> None:
    arrays = _golden("cub_boxes")
    for box, picture, expected in zip(arrays["boxes_xywh"], arrays["image_wh"], arrays["gt_strings"], strict=True):
        assert " ".join(map(str, box_on_grid(box, tuple(picture), SIZE))) == expected


def test_maps_and_boxes_equal_the_published_ones() -> None:
    arrays = _golden("wsol_eval")
    grey = grey_map(arrays["cams"][0, 0], SIZE)
    np.testing.assert_array_equal(grey[::16, ::16], (arrays["resized_slice"] * 255).astype(np.uint8))
    for image, cams in enumerate(arrays["cams"]):
        found = [largest_box(grey_map(cam, SIZE), float(arrays["cam_thr"])) for cam in cams]
        np.testing.assert_array_equal(found, arrays["boxes_all"][image])
        label = grey_map(cams[arrays["labels"][image]], SIZE)
        for row, threshold in enumerate(arrays["thresholds"]):
            assert list(largest_box(label, threshold)) == arrays["boxes_label_by_threshold"][row, image].tolist()
    assert list(NO_BOX) == arrays["box_of_zero_map"].tolist()
    for nothing in (np.zeros((14, 14), np.float32), np.full((14, 14), np.nan, np.float32)):
        assert largest_box(grey_map(nothing, SIZE), 0.1) == NO_BOX


def test_overlaps_equal_the_published_ones() -> None:
    arrays = _golden("wsol_eval")
    for column, (one, other) in enumerate(zip(arrays["iou_a"], arrays["iou_b"], strict=True)):
        found = [values[0, 0] for values in overlaps(one[None], other[None])]
        np.testing.assert_allclose(found, arrays["iou"][:, column], rtol=1e-12)


def test_judgements_equal_the_published_ones() -> None:
    arrays = _golden("wsol_eval")
    judged = []
    for image, label in enumerate(arrays["labels"]):
        ranked = np.argsort(-arrays["logits"][image])[:5].tolist()
        boxes = dict(enumerate(arrays["boxes_all"][image].tolist()))
        judged.append(judge(boxes, int(label), ranked, _truth(arrays["gt_boxes"][image])))
    pairs = {
        "cls_top1": "top1", "cls_top5": "top5", "loc_top1": "top1_box", "loc_top5": "top5_box", "loc_gt_known": "known_box",
    }  # fmt: skip
    for published, ours in pairs.items():
        assert [getattr(one, ours) for one in judged] == arrays[f"out_{published}"].astype(bool).tolist(), ours
    for published, detail in zip(("right", "cls_wrong", "multi", "part", "more", "wrong"), DETAILS, strict=True):
        assert [one.detail == detail for one in judged] == arrays[f"out_{published}"].astype(bool).tolist(), detail
    np.testing.assert_allclose([np.mean([getattr(one, name) for one in judged]) for name in pairs.values()], arrays["summary"])


def test_details_of_several_objects_and_of_a_part() -> None:
    two = np.array([[0, 0, 49, 99], [50, 0, 99, 99]])
    assert judge({3: (0, 0, 99, 99)}, 3, [3], two).detail == "several"
    assert judge({3: (10, 10, 20, 20)}, 3, [3], two[:1]).detail == "part"
    assert judge({3: (0, 0, 99, 140)}, 3, [3], two[:1]).detail == "more"
    assert judge({3: (0, 0, 99, 140)}, 3, [], two[:1]).known_box is False


def _hard_maps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 40), dtype=np.uint8)
    twins = np.zeros((30, 40), np.uint8)
    twins[2:8, 2:8] = twins[20:26, 30:36] = 200
    ring = np.zeros((30, 40), np.uint8)
    cv2.circle(ring, (20, 15), 10, 180, 2)
    point = np.zeros((30, 40), np.uint8)
    point[4, 7] = 255
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return [noise, twins, ring, point, smooth, np.full((30, 40), 9, np.uint8), np.zeros((30, 40), np.uint8)]


@pytest.mark.parametrize("index", range(7))
def test_all_levels_at_once_equal_one_by_one(index: int) -> None:
    grey = _hard_maps()[index]
    for level, (boxes, areas) in enumerate(boxes_at_all_levels(grey)):
        contours, _ = cv2.findContours((grey > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        expected = [(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, contours)]
        assert sorted(map(tuple, boxes.tolist())) == sorted(expected), level
        assert sorted(areas.tolist()) == sorted(cv2.contourArea(contour) for contour in contours), level


def test_best_threshold_equals_a_plain_loop() -> None:
    truth = np.array([[2, 2, 8, 8], [28, 18, 36, 26]])
    best = BestThreshold()
    plain = np.zeros((2, len(OVERLAPS), 256))
    for grey in _hard_maps():
        best.add(grey, truth)
        for level in range(256):
            contours, _ = cv2.findContours((grey > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            boxes = [(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, contours)] or [NO_BOX]
            chosen = max(range(len(boxes)), key=lambda i: cv2.contourArea(contours[i]) if contours else 0)
            found = overlaps(np.array(boxes), truth)[0].max(1)
            for row, least in enumerate(OVERLAPS):
                plain[:, row, level] += found[chosen] >= least, found.max() >= least
    np.testing.assert_array_equal(best.largest, plain[0])
    np.testing.assert_array_equal(best.any, plain[1])
    summary = best.summary()
    assert summary["max_box_acc"] == plain[0, 1].max() / 7
    assert summary["max_box_acc_v2"] == pytest.approx(plain[1].max(1).mean() / 7)


def test_pixel_average_precision_equals_a_plain_loop() -> None:
    rng, precision = np.random.default_rng(0), PixelPrecision()
    assert precision.value() is None
    scores, inside = [], []
    for grey in _hard_maps()[:6]:
        labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (15, 20))
        precision.add(grey, labels, 1)
        large = labels.repeat(2, axis=0).repeat(2, axis=1)  # nearest, twice as large
        scores.append(grey[large != 255])
        inside.append(large[large != 255] == 1)
    value, object_ = np.concatenate(scores), np.concatenate(inside)
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(value.tolist()), reverse=True):
        chosen = value >= threshold
        gained = (chosen & object_).sum() / object_.sum()
        expected += (chosen & object_).sum() / chosen.sum() * (gained - recall)
        recall = gained
    assert precision.value() == pytest.approx(expected, rel=1e-12)

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs.paste_schema import BankConfig
from utils.cams.foreground import (
    NOTHING,
    PIECES,
    SALIENCY,
    SCORE,
    SEVERAL,
    SIZE,
    largest_piece,
    select_objects,
)

SALIENT = 200
PUBLISHED = BankConfig(connected=0, min_score=0, min_salient=0)


def _scene() -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """A 20 x 30 picture with an object of class 4 in two pieces (8 x 10, and 3 x 2 pixels), scored 153, salient."""
    labels = np.zeros((20, 30), np.uint8)
    labels[2:10, 5:15] = 5
    labels[15:18, 20:22] = 5
    return labels, {4: np.where(labels > 0, 153, 10).astype(np.uint8)}, np.where(labels > 0, 230, 0).astype(np.uint8)


def test_published_rule_keeps_all_pieces_in_one_box() -> None:
    labels, scores, saliency = _scene()
    (chosen,), reasons = select_objects(labels, scores, saliency, PUBLISHED, SALIENT)
    assert not reasons and chosen.class_index == 4 and chosen.box == (5, 2, 22, 18)
    assert chosen.mask.sum() == 86 and chosen.share == pytest.approx(86 / 600) and chosen.score == pytest.approx(0.6)


def test_connected_objects_lose_their_crumbs() -> None:
    labels, scores, saliency = _scene()
    (chosen,), _ = select_objects(labels, scores, saliency, BankConfig(), SALIENT)
    assert chosen.box == (5, 2, 15, 10) and chosen.mask.sum() == 80


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"share": [0.2, 0.7]}, SIZE),
        ({"share": [0.01, 0.1]}, SIZE),
        ({"connected": 0.95}, PIECES),
        ({"min_score": 0.61}, SCORE),
        ({"min_salient": 1.0}, SALIENCY),
    ],
)
def test_each_limit_excludes(changes: dict[str, Any], reason: str) -> None:
    labels, scores, saliency = _scene()
    saliency[2, 5] = 0
    assert select_objects(labels, scores, saliency, replace(BankConfig(), **changes), SALIENT) == ([], [reason])
    assert len(select_objects(labels, scores, saliency, BankConfig(), SALIENT)[0]) == 1


def test_several_classes_and_empty_maps() -> None:
    labels, scores, saliency = _scene()
    labels[10:18, 0:9] = 2
    assert select_objects(labels, scores, saliency, BankConfig(), SALIENT) == ([], [SEVERAL])
    both, reasons = select_objects(labels, scores, None, BankConfig(single_class=False), SALIENT)
    assert [chosen.class_index for chosen in both] == [1, 4] and both[0].score == 1 and not reasons
    assert select_objects(np.full((4, 4), 255, np.uint8), {}, None, BankConfig(), SALIENT) == ([], [NOTHING])


def test_ignored_pixels_are_no_object() -> None:
    labels, scores, saliency = _scene()
    labels[2:10, 10:15] = 255
    (chosen,), _ = select_objects(labels, scores, saliency, BankConfig(share=[0.05, 0.7]), SALIENT)
    assert chosen.mask.sum() == 40


def test_diagonal_neighbours_are_connected() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    assert largest_piece(mask).sum() == 2
    assert largest_piece(mask | np.array([[0, 0, 1, 0], [0] * 4, [0] * 4], bool)).sum() == 5

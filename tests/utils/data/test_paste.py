import random
from pathlib import Path

import numpy as np
import pytest

from utils.data.paste import Cutout, PasteRule, find_place, fitted_size, paste

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "sa_cda" / "cda_paste.npz")
LARGE = Cutout(GOLDEN["fg_img"], GOLDEN["fg_seg"], GOLDEN["fg_sal"])
SMALL = Cutout(*(np.ascontiguousarray(array[::2, ::2]) for array in (LARGE.image, LARGE.labels, LARGE.saliency)))
ONE_TRY = PasteRule(attempts=1)


@pytest.mark.parametrize(
    ("name", "seed", "cutout"), [*((f"plus{s}", s, LARGE) for s in range(4)), ("plain5", 5, LARGE), ("small6", 6, SMALL)]
)
def test_published_pastes(name: str, seed: int, cutout: Cutout) -> None:
    place = find_place(GOLDEN["sal"], cutout, ONE_TRY, random.Random(seed))
    # The published image has the red and blue of its background swapped.
    image, saliency = paste(GOLDEN["bg"][..., ::-1], GOLDEN["sal"], cutout, place)
    np.testing.assert_array_equal(image, GOLDEN[f"{name}_image"])
    np.testing.assert_array_equal(saliency, GOLDEN[f"{name}_sal"])
    if f"{name}_overlap" in GOLDEN:
        assert place.overlap == GOLDEN[f"{name}_overlap"]
    if f"{name}_params" in GOLDEN:
        assert [place.rows, place.columns, place.row, place.column] == GOLDEN[f"{name}_params"][1:].tolist()


def test_inputs_stay_as_they_are() -> None:
    image, saliency = GOLDEN["bg"].copy(), GOLDEN["sal"].copy()
    paste(image, saliency, LARGE, find_place(saliency, LARGE, ONE_TRY, random.Random(0)))
    assert (image == GOLDEN["bg"]).all() and (saliency == GOLDEN["sal"]).all()


def test_places_are_tried_until_one_overlaps_little() -> None:
    rng = random.Random(2)  # its first place overlaps by 0.71
    place = find_place(GOLDEN["sal"], LARGE, PasteRule(), rng)
    assert place.overlap < 0.2
    again = random.Random(2)
    tries = [find_place(GOLDEN["sal"], LARGE, ONE_TRY, again)]
    while tries[-1].overlap >= 0.2:
        tries.append(find_place(GOLDEN["sal"], LARGE, ONE_TRY, again))
    assert (place.row, place.column, place.rows) == (tries[-1].row, tries[-1].column, tries[-1].rows) and len(tries) > 1
    assert rng.random() == again.random()


def test_the_least_overlap_is_taken_when_none_is_small() -> None:
    one_by_one, rng = random.Random(4), random.Random(4)
    impossible = PasteRule(overlap=-1.0, attempts=10)
    place = find_place(GOLDEN["sal"], LARGE, impossible, rng)
    tries = [find_place(GOLDEN["sal"], LARGE, PasteRule(attempts=1), one_by_one) for _ in range(10)]
    first_best = min(tries, key=lambda t: t.overlap)
    assert (place.overlap, place.row, place.column) == (first_best.overlap, first_best.row, first_best.column)
    assert rng.random() == one_by_one.random()


def test_an_object_without_salient_pixels_is_accepted_and_changes_nothing() -> None:
    dull = Cutout(LARGE.image, LARGE.labels, np.zeros_like(LARGE.saliency))
    place = find_place(GOLDEN["sal"], dull, PasteRule(), random.Random(0))
    image, saliency = paste(GOLDEN["bg"], GOLDEN["sal"], dull, place)
    assert place.overlap == 0 and (image == GOLDEN["bg"]).all() and (saliency == GOLDEN["sal"]).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 20), (10, 20)), ((100, 50), (70, 35)), ((50, 300), (23.3333, 140)), ((300, 300), (70, 70))]
)
def test_objects_are_shrunk_never_enlarged(size: tuple[int, int], expected: tuple[float, float]) -> None:
    np.testing.assert_allclose(fitted_size(size, (100, 200), 0.7), expected, rtol=1e-4)


def test_tiny_objects_keep_a_pixel() -> None:
    dot = Cutout(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.uint8), np.full((1, 1), 255, np.uint8))
    place = find_place(np.zeros((5, 5), np.uint8), dot, PasteRule(scale=(0.5, 0.5)), random.Random(0))
    assert (place.rows, place.columns) == (1, 1) and place.mask.all()

"""The demo set's drawings: deterministic, exactly masked, balanced and of the intended difficulty."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from utils.demo_set.canvas import Canvas, Colour, Frame, ellipse, hsv, polygon, smooth, tube
from utils.demo_set.creatures import CREATURES, PARTS, draw_creature, random_look
from utils.demo_set.scene import Scene, draw_scene

SAMPLE = 48


@cache
def scenes() -> list[Scene]:
    return [draw_scene(0, "train", index, 96) for index in range(SAMPLE)]


def test_shapes_and_ranges() -> None:
    for scene in scenes()[:6]:
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.label.shape == scene.saliency.shape == (96, 96)
        assert scene.label.dtype == scene.saliency.dtype == np.uint8


def test_same_seed_same_picture_and_others_differ() -> None:
    again = draw_scene(0, "train", 5, 96)
    assert np.array_equal(again.image, scenes()[5].image)
    assert np.array_equal(again.label, scenes()[5].label)
    assert np.array_equal(again.saliency, scenes()[5].saliency)
    for other in (draw_scene(1, "train", 5, 96), draw_scene(0, "val", 5, 96), scenes()[11]):
        assert not np.array_equal(again.image, other.image)


def test_classes_are_those_of_the_mask() -> None:
    for index, scene in enumerate(scenes()):
        assert {int(v) - 1 for v in np.unique(scene.label)} - {-1} == set(scene.classes)
        assert scene.classes == tuple(sorted(scene.classes))
        assert index % len(CREATURES) in scene.classes


def test_difficulty_is_as_intended() -> None:
    """Objects fill about a quarter; saliency finds them about as well as a detector would."""
    share = [float((scene.label > 0).mean()) for scene in scenes()]
    assert 0.15 <= np.median(share) <= 0.32
    overlap = []
    for scene in scenes():
        mask, salient = scene.label > 0, scene.saliency >= 128
        overlap.append((mask & salient).sum() / (mask | salient).sum())
    assert 0.6 <= np.mean(overlap) <= 0.82
    assert sum(len(scene.classes) > 1 for scene in scenes()) >= SAMPLE // 4


def test_unlabelled_things_are_salient_in_some_pictures() -> None:
    false_alarms = [float(((scene.saliency >= 128) & (scene.label == 0)).mean()) for scene in scenes()]
    assert sum(share > 0.01 for share in false_alarms) >= SAMPLE // 8


@pytest.mark.parametrize("kind", CREATURES)
def test_creature_is_masked_exactly_and_its_part_is_small(kind: str) -> None:
    canvas = Canvas(96)
    side = canvas.side
    rng = np.random.default_rng(3)
    frame = Frame((side / 2, side * 0.6), side * 0.45, 0.2, True)
    blank = np.float32(-1.0)  # a colour no pen has
    canvas.rgb[:] = blank
    draw_creature(canvas.pen(frame, 1), canvas.pen(frame, 2), kind, random_look(rng), rng)
    assert np.array_equal((canvas.rgb != blank).any(axis=2), canvas.owner > 0)
    part, body = (canvas.owner == 2).sum(), (canvas.owner == 1).sum()
    assert 0.03 * body < part < 0.45 * body


def test_creatures_differ_only_in_their_part() -> None:
    def body(kind: str) -> np.ndarray:
        canvas = Canvas(64)
        rng = np.random.default_rng(4)
        frame = Frame((canvas.side / 2, canvas.side / 2), canvas.side * 0.5)
        draw_creature(canvas.pen(frame, 1), canvas.pen(frame, 2), kind, random_look(rng), rng)
        return np.where((canvas.owner == 1)[:, :, None], canvas.rgb, np.nan)

    first, second = body("bunny"), body("squirrel")
    both = ~np.isnan(first) & ~np.isnan(second)
    assert both.mean() > 0.1
    assert np.array_equal(first[both], second[both])


@pytest.mark.parametrize("kind", CREATURES)
def test_a_part_has_the_colour_of_its_class_whatever_the_coat(kind: str) -> None:
    def part(coat: Colour) -> np.ndarray:
        canvas, rng = Canvas(64), np.random.default_rng(2)
        frame = Frame((canvas.side / 2, canvas.side / 2), canvas.side * 0.5)
        look = replace(random_look(rng), coat=coat, trim=coat)
        draw_creature(canvas.pen(frame, 1), canvas.pen(frame, 2), kind, look, rng)
        return canvas.rgb[canvas.owner == 2]

    red, blue = part((0.9, 0.1, 0.1)), part((0.1, 0.1, 0.9))
    assert len(red) > 50 and np.array_equal(red, blue)
    assert len({PARTS[name].colour for name in CREATURES}) == len(CREATURES)


def test_strokes_outside_the_canvas_are_ignored() -> None:
    canvas = Canvas(16)
    pen = canvas.pen(owner=1)
    pen.fill(ellipse(3.0, 3.0, 0.2, 0.2), (1.0, 0.0, 0.0), round=True, outline=0.1)
    pen.fill(ellipse(-3.0, 0.5, 0.2, 0.2), (1.0, 0.0, 0.0))
    pen.relight(ellipse(0.5, 9.0, 0.2, 0.2), 0.5)
    assert not canvas.owner.any() and not canvas.rgb.any()


def test_coverage_is_the_antialiased_area() -> None:
    canvas = Canvas(32)
    canvas.pen(owner=3).fill(ellipse(0.5, 0.5, 0.25, 0.25), (1.0, 1.0, 1.0), round=True)
    assert canvas.coverage(3).mean() == pytest.approx(np.pi / 16, abs=0.01)
    assert canvas.image().shape == (32, 32, 3)


def test_curves_pass_through_their_corners() -> None:
    corners = ((0.0, 0.0), (1.0, 0.5), (2.0, 0.0))
    curve = smooth(*corners, closed=False)
    for corner in corners:
        assert np.abs(curve - corner).sum(axis=1).min() < 1e-6
    outline = tube(polygon((0, 0), (1, 0)), [0.1, 0.1])
    assert np.allclose(np.abs(outline[:, 1]), 0.1)
    assert hsv(1.25, 1.0, 1.0) == hsv(0.25, 1.0, 1.0)

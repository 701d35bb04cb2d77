import numpy as np
import pytest

from utils.drawing.cam_pictures import (
    class_picture,
    class_ramp,
    colour_bar,
    combined_overlay,
    combined_picture,
    heat_ramp,
    published_picture,
)
from utils.drawing.overlays import heat_map

HEIGHT, WIDTH = 120, 90
IMAGE = np.full((HEIGHT, WIDTH, 3), (40, 90, 200), np.uint8)


def _half(level: int) -> np.ndarray:
    cam = np.zeros((HEIGHT, WIDTH), np.uint8)
    cam[:, : WIDTH // 2] = level
    return cam


@pytest.mark.parametrize("height", [20, 120])
def test_a_bar_runs_from_one_above_to_zero_below(height: int) -> None:
    bar = colour_bar([heat_ramp(height, "viridis")])
    ends = heat_map(np.array([[255, 0]], np.uint8), colormap="viridis")[0]
    column = bar[:, 8]
    inside = np.flatnonzero((column != 255).any(axis=1))
    np.testing.assert_array_equal(column[inside[0]], ends[0])
    np.testing.assert_array_equal(column[inside[-1]], ends[1])
    assert bar.shape[0] == height and bar.shape[1] < 60


def test_the_threshold_is_marked_at_its_height() -> None:
    ramp = heat_ramp(HEIGHT, "turbo")
    plain, marked = colour_bar([ramp]), colour_bar([ramp], mark=0.25)
    rows = np.flatnonzero((plain != marked).any(axis=(1, 2)))
    assert 0 < len(rows) <= 4 and abs(rows.mean() / HEIGHT - 0.72) < 0.03


def test_class_pictures_have_the_image_and_a_bar() -> None:
    picture = class_picture(IMAGE, _half(255), colormap="turbo", opacity=0.65, outline=0.3)
    assert picture.shape[0] == HEIGHT and WIDTH < picture.shape[1] < WIDTH + 60 and picture.dtype == np.uint8
    assert (picture[:, WIDTH:] == 255).all(axis=2).any()


def test_each_pixel_has_the_colour_of_its_highest_class() -> None:
    # Classes 0 and 1 are red and green in the palette; class 1 wins on the left, nothing on the right.
    cams = {0: _half(100), 1: _half(200)}
    overlay = combined_overlay(IMAGE, cams, opacity=1.0).astype(int)
    left, right = overlay[50, 10], overlay[50, -10]
    assert left[1] > left[0] + 50 and left[1] > left[2] + 50
    assert right[0] == right[1] == right[2] > 0
    stronger = combined_overlay(IMAGE, {1: _half(255)}, opacity=1.0)[50, 10]
    np.testing.assert_array_equal(stronger, (0, 255, 0))
    np.testing.assert_array_equal(class_ramp(HEIGHT, 1, 1.0)[0, 0], stronger)


def test_combined_pictures_name_their_classes_and_take_small_maps() -> None:
    picture = combined_picture(IMAGE, {0: _half(100)[::4, ::4], 1: _half(200)}, ["red", "green"], opacity=0.7)
    assert picture.shape[0] > HEIGHT and picture.shape[1] > WIDTH
    assert combined_picture(IMAGE, {}, ["red", "green"], opacity=0.7).shape == IMAGE.shape


def test_published_pictures_stretch_each_map_to_its_own_range() -> None:
    faint = np.linspace(50, 60, 11).astype(np.uint8)[None].repeat(2, axis=0)
    picture = published_picture(faint)
    expected = heat_map(np.array([[0.0, 1.0]]), colormap="jet")[0]
    np.testing.assert_array_equal(picture[0, [0, -1]], expected)
    assert published_picture(np.full((3, 3), 7, np.uint8)).std(axis=(0, 1)).max() == 0

"""Pictures: sizes, types and what their pixels show."""

import numpy as np
import pytest

from utils.drawing.overlays import (
    cam_overlay,
    contact_sheet,
    heat_map,
    label_overlay,
)

NAMES = ["aeroplane", "bicycle", "a very long class name that does not fit"]
IMAGE = np.full((60, 80, 3), 120, np.uint8)


def _labels() -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 10:30], labels[40:50, 40:70], labels[:5] = 1, 3, 255
    return labels


def test_heat_map_takes_floats_and_grey_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(heat_map(levels), heat_map(levels / 255))
    assert heat_map(levels).shape == (16, 16, 3)
    assert heat_map(levels, colormap="gray")[-1, -1].tolist() == [255, 255, 255]


def test_cam_overlay_is_hot_where_the_cam_is_and_grey_elsewhere() -> None:
    cam = np.zeros((6, 8), np.float32)
    cam[2:4, 2:4] = 1
    out = cam_overlay(IMAGE, cam)
    assert out.shape == IMAGE.shape
    assert out.dtype == np.uint8
    red, _, blue = out[29, 29].astype(int)
    assert red > blue + 40
    outlined = cam_overlay(IMAGE, cam, outline=0.5)
    assert (outlined == 255).all(axis=2).any()


def test_label_overlay_keeps_background_and_adds_a_legend() -> None:
    plain = label_overlay(IMAGE, _labels(), NAMES, legend=False)
    assert plain.shape == IMAGE.shape
    assert plain[35, 5].tolist() == [120, 120, 120]
    red, green, blue = plain[20, 20].tolist()
    assert red > max(green, blue)
    with_legend = label_overlay(IMAGE, _labels(), NAMES)
    assert with_legend.shape[0] > plain.shape[0]
    assert with_legend.shape[1] == plain.shape[1]


def test_contact_sheet_takes_rows_of_different_length_and_shape() -> None:
    tall = np.zeros((90, 30, 3), np.uint8)
    sheet = contact_sheet([[("a", IMAGE), ("b", tall)], [("a caption wider than its picture", tall)]], cell_height=50)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])

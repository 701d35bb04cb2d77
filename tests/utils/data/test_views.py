"""Views of pictures and of the maps over them, against the samples of CRT's and IRN's published transforms."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.sample_schema import SampleConfig
from utils.data.transforms import to_normalised_tensor, true_crop_box
from utils.data.views import View, draw_view

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "crt" / "transforms.npz")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COMMON = SampleConfig(input_size=96, crop="correct", fill="mean", flip=True, saliency="none")
CLASSIFIER = replace(COMMON, resize="long", long_side=[60, 140])
AFFINITY = replace(COMMON, resize="scale", scale_jitter=[0.5, 1.5])


def _pixels(view: View) -> torch.Tensor:
    return view.blanked(to_normalised_tensor(view.image(Image.fromarray(GOLDEN["image"])), MEAN, STD))


@pytest.mark.parametrize("number", range(4))
def test_published_view_of_the_classifier(number: int) -> None:
    view = draw_view(CLASSIFIER, (101, 75), random.Random(int(GOLDEN[f"cls_seed{number}"])))
    np.testing.assert_allclose(_pixels(view)[:, ::5, ::5], GOLDEN[f"cls_out{number}"], rtol=0, atol=1e-5)


def test_published_view_of_validation() -> None:
    pixels = _pixels(draw_view(replace(COMMON, resize="none", crop="top_left", flip=False), (101, 75), random.Random(0)))
    np.testing.assert_allclose(pixels[:, ::5, ::5], GOLDEN["val_topleft"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_published_view_of_the_affinity_network(number: int) -> None:
    view = draw_view(AFFINITY, (101, 75), random.Random(int(GOLDEN[f"aff_seed{number}"])))
    np.testing.assert_allclose(_pixels(view)[:, ::5, ::5], GOLDEN[f"aff_img{number}"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(view.seeds(GOLDEN["label_image"]), GOLDEN[f"aff_label{number}"])


def test_published_crop_boxes() -> None:
    rng = random.Random(0)
    cases = [((75, 101), 96), ((120, 50), 96), ((200, 300), 96), ((96, 96), 96), ((40, 40), 64)]
    for ((height, width), side), expected in zip(cases, GOLDEN["crop_boxes_seed0"].tolist(), strict=True):
        left, top, *_ = true_crop_box(rng, (width, height), side)
        to_top, _, to_left, _, from_top, _, from_left, _ = expected
        assert (top, left) == (from_top - to_top, from_left - to_left)


def test_what_is_outside_of_a_mirrored_view_is_blank_and_unknown() -> None:
    """A 2x1 picture, white, at the left of a 4x1 view: mirrored, it stands at the right."""
    view = View(None, (2, 1), (0, 0, 4, 1), mirrored=True)
    pixels = view.blanked(to_normalised_tensor(view.image(Image.new("RGB", (2, 1), "white")), [0, 0, 0], [1, 1, 1]))
    assert pixels[0].tolist() == [[0, 0, 1, 1]]
    assert view.seeds(np.array([[7, 0]], np.uint8)).tolist() == [[255, 255, 0, 7]]

"""Training samples and demo inputs against the published ones."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.deeplab_schema import ImageConfig
from deeplab.dataset import cut_image, cut_labels, draw_crop, draw_strong, fuse_labels, strong_copy
from deeplab.demo import demo_input, resize_long_side
from models.refiners.dense_crf import published_image
from utils.data.samplers import SampleRng
from utils.data.transforms import to_input, to_rgb

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"
IMAGE = ImageConfig()
MEAN_BGR = np.array([IMAGE.mean.b, IMAGE.mean.g, IMAGE.mean.r], np.float32)


@pytest.mark.parametrize("base", [None, 90])
@pytest.mark.parametrize("seed", range(6))
def test_samples_equal_published(base: int | None, seed: int) -> None:
    golden = np.load(GOLDEN / "augmentation.npz")
    name = f"b{base or 0}_s{seed}"
    draws = draw_crop(random.Random(seed), golden["label"].shape, crop=65, scales=[0.5, 0.75, 1, 1.25, 1.5], base=base)
    image = cut_image(golden["image_bgr"].astype(np.float32), draws, crop=65, mean=MEAN_BGR)
    labels = cut_labels(golden["label"], draws, crop=65)
    expected = golden[f"{name}_draws"]
    np.testing.assert_allclose([draws.scale, draws.top, draws.left, draws.mirror], expected[[0, 3, 4, 5]], rtol=1e-6)
    np.testing.assert_array_equal(labels, golden[f"{name}_label"])
    np.testing.assert_allclose(to_input(image, IMAGE), golden[f"{name}_image"], atol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_strong_copies_equal_published(seed: int) -> None:
    golden = np.load(GOLDEN.parent / "cdl" / "strong_augmentation.npz")
    rng = SampleRng(np.random.RandomState(seed), random.Random(seed), torch.Generator().manual_seed(seed))  # noqa: NPY002
    crop = draw_crop(rng.python, golden["label"].shape, crop=65, scales=[0.5, 0.75, 1, 1.25, 1.5])
    image = cut_image(golden["image_bgr"].astype(np.float32), crop, crop=65, mean=MEAN_BGR)
    strong = draw_strong(rng)
    names = ["brightness", "contrast", "saturation", "hue"]
    order = [names.index(name) for name, _ in strong.jitter] or [-1] * 4
    factors = dict(strong.jitter)
    drawn = [crop.scale, crop.top, crop.left, crop.mirror, strong.jitter_gate, *order]
    expected = golden[f"s{seed}_draws"]
    np.testing.assert_allclose(drawn, expected[:9], rtol=1e-6)
    np.testing.assert_allclose([strong.grey_gate, strong.blur_gate], expected[13:15], rtol=1e-6)
    if factors:
        np.testing.assert_allclose([factors[name] for name in names], expected[9:13], rtol=1e-6)
    if strong.radius:
        np.testing.assert_allclose(strong.radius, expected[15], rtol=1e-6)
    np.testing.assert_array_equal(cut_labels(golden["label"], crop, crop=65), golden[f"s{seed}_label"])
    np.testing.assert_allclose(to_input(image, IMAGE), golden[f"s{seed}_image"], atol=1e-3)
    off = np.abs(strong_copy(image, strong, "bgr") - golden[f"s{seed}_image_aug_uint8_bgr"])
    assert off.max() <= 2
    assert (off > 0).mean() < 0.005


def test_label_sets_are_joined() -> None:
    maps = np.array([[[1, 1, 2, 255, 255]], [[1, 2, 1, 3, 255]], [[1, 2, 3, 255, 255]]], np.uint8)
    assert fuse_labels(maps, "agree").tolist() == [[1, 255, 255, 255, 255]]
    assert fuse_labels(maps, "vote").tolist() == [[1, 2, 2, 3, 255]]
    assert fuse_labels(maps, "first").tolist() == [[1, 1, 2, 3, 255]]


def test_whole_images_equal_published() -> None:
    golden = np.load(GOLDEN / "augmentation.npz")
    inputs = to_input(golden["image_bgr"].astype(np.float32), IMAGE)
    np.testing.assert_allclose(inputs, golden["noaug_image"], atol=1e-3)
    rgb = np.ascontiguousarray(golden["image_bgr"][:, :, ::-1])
    np.testing.assert_array_equal(to_rgb(inputs, IMAGE), rgb)
    mean = (IMAGE.mean.r, IMAGE.mean.g, IMAGE.mean.b)
    wrapped = golden["noaug_uint8_cast"]
    wrapped = wrapped.transpose(1, 2, 0) if wrapped.shape[0] == 3 else wrapped
    np.testing.assert_array_equal(published_image(rgb, mean), wrapped)


def test_demo_inputs_equal_published() -> None:
    golden = np.load(GOLDEN / "demo_preprocess.npz")
    rgb = np.ascontiguousarray(golden["image_bgr"][:, :, ::-1])
    small = resize_long_side(rgb, int(golden["test_size"]))
    np.testing.assert_array_equal(small[:, :, ::-1], golden["resized"])
    np.testing.assert_allclose(demo_input(small, IMAGE), golden["input"], atol=1e-4)

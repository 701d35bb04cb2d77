"""Training samples and demo inputs against the published ones."""

import random
from pathlib import Path

import numpy as np
import pytest

from configs.deeplab_schema import ImageConfig
from deeplab.dataset import augment
from deeplab.demo import demo_input, resize_long_side
from models.refiners.dense_crf import published_image
from utils.data.transforms import to_input, to_rgb

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"
IMAGE = ImageConfig()
MEAN_BGR = np.array([IMAGE.mean.b, IMAGE.mean.g, IMAGE.mean.r], np.float32)


@pytest.mark.parametrize("base", [None, 90])
@pytest.mark.parametrize("seed", range(6))
def test_samples_equal_published(base: int | None, seed: int) -> None:
    golden = np.load(GOLDEN / "augmentation.npz")
    name = f"b{base or 0}_s{seed}"
    image, labels, draws = augment(
        golden["image_bgr"].astype(np.float32),
        golden["label"],
        random.Random(seed),
        mean=MEAN_BGR,
        crop=65,
        scales=[0.5, 0.75, 1, 1.25, 1.5],
        base=base,
    )
    expected = golden[f"{name}_draws"]
    np.testing.assert_allclose([draws.scale, draws.top, draws.left, draws.mirror], expected[[0, 3, 4, 5]], rtol=1e-6)
    np.testing.assert_array_equal(labels, golden[f"{name}_label"])
    np.testing.assert_allclose(to_input(image, IMAGE), golden[f"{name}_image"], atol=1e-3)


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

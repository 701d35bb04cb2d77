from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from utils.data.transforms import ColorJitter, Pixels, apply_jitter, turn_hue

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "color_jitter.npz")
SOURCE = Image.fromarray(GOLDEN["src"])
OPERATIONS = ["brightness", "contrast", "saturation", "hue"]


def assert_close_levels(image: Pixels, expected: np.ndarray, tolerance: int = 1) -> None:
    np.testing.assert_allclose(image.astype(int), expected.astype(int), rtol=0, atol=tolerance)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_single_operations(operation: str) -> None:
    for factor, expected in zip(GOLDEN[f"{operation}_factors"], GOLDEN[f"{operation}_out"], strict=True):
        assert_close_levels(apply_jitter(SOURCE, [(operation, float(factor))]), expected)


@pytest.mark.parametrize("seed", range(4))
def test_draws_and_whole_jitter(seed: int) -> None:
    drawn = ColorJitter().draw(np.random.RandomState(seed))
    expected = GOLDEN["factors_b_c_s_h_then_order"][seed]
    assert [OPERATIONS.index(name) for name, _ in drawn] == expected[4:].astype(int).tolist()
    np.testing.assert_allclose([dict(drawn)[name] for name in OPERATIONS], expected[:4])
    assert_close_levels(ColorJitter()(SOURCE, np.random.RandomState(seed)), GOLDEN["jitter_seed0_3"][seed])


def _every_kind_of_colour() -> Image.Image:
    """Random colours, dark ones, bright ones, greys and pure ones; more rows than one strip has."""
    rng = np.random.default_rng(0)
    parts = [(0, 256, 1), (0, 6, 1), (250, 256, 1), (0, 2, 255), (0, 4, 85)]
    blocks = [rng.integers(low, high, (40, 501, 3)) * step for low, high, step in parts]
    grey = np.repeat(rng.integers(0, 256, (40, 501, 1)), 3, axis=2)
    return Image.fromarray(np.concatenate([*blocks, grey]).astype(np.uint8))


@pytest.mark.parametrize("factor", [0.0, 0.7, 0.83, 1.0, 1.21, 1.3, 2.0])
@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation"])
def test_enhancements_equal_pil_exactly(operation: str, factor: float) -> None:
    image = _every_kind_of_colour()
    enhance = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}
    expected = np.asarray(enhance[operation](image).enhance(factor))
    np.testing.assert_array_equal(apply_jitter(image, [(operation, factor)]), expected)


@pytest.mark.parametrize("turns", [-0.5, -0.1, -0.004, 0.0, 0.03, 0.1, 0.5])
def test_hue_equals_pil_exactly(turns: float) -> None:
    image = _every_kind_of_colour()
    levels = np.array(image.convert("HSV"))
    levels[..., 0] += np.uint8(int(turns * 255) % 256)
    expected = np.asarray(Image.frombytes("HSV", image.size, levels.tobytes()).convert("RGB"))
    np.testing.assert_array_equal(apply_jitter(image, [("hue", turns)]), expected)


def test_zero_half_ranges_draw_nothing() -> None:
    rng = np.random.RandomState(0)
    before = rng.get_state()[2]  # type: ignore[index]
    np.testing.assert_array_equal(ColorJitter(0, 0, 0, 0)(SOURCE, rng), np.asarray(SOURCE))
    assert rng.get_state()[2] == before  # type: ignore[index]
    assert [name for name, _ in ColorJitter(0, 0.3, 0, 0).draw(rng)] == ["contrast"]


def test_hue_out_of_range() -> None:
    with pytest.raises(ValueError, match="0.6"):
        turn_hue(SOURCE, 0.6)

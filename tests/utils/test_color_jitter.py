from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from utils.color_jitter import ColorJitter, adjust_brightness, adjust_contrast, adjust_hue, apply_jitter

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "color_jitter.npz")
SOURCE = Image.fromarray(GOLDEN["src"])
OPERATIONS = ["brightness", "contrast", "saturation", "hue"]


def assert_close_levels(image: Image.Image, expected: np.ndarray, tolerance: int = 1) -> None:
    np.testing.assert_allclose(np.asarray(image).astype(int), expected.astype(int), rtol=0, atol=tolerance)


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


@pytest.mark.parametrize("factor", [0.0, 0.7, 0.83, 1.0, 1.21, 1.3, 2.0])
def test_tables_equal_pil_exactly(factor: float) -> None:
    assert adjust_brightness(SOURCE, factor).tobytes() == ImageEnhance.Brightness(SOURCE).enhance(factor).tobytes()
    assert adjust_contrast(SOURCE, factor).tobytes() == ImageEnhance.Contrast(SOURCE).enhance(factor).tobytes()


def test_zero_half_ranges_draw_nothing() -> None:
    rng = np.random.RandomState(0)
    before = rng.get_state()[2]  # type: ignore[index]
    assert ColorJitter(0, 0, 0, 0)(SOURCE, rng) is SOURCE
    assert rng.get_state()[2] == before  # type: ignore[index]
    assert [name for name, _ in ColorJitter(0, 0.3, 0, 0).draw(rng)] == ["contrast"]


def test_hue_out_of_range() -> None:
    with pytest.raises(ValueError, match="0.6"):
        adjust_hue(SOURCE, 0.6)

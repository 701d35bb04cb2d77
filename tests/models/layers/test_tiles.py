"""Tiles against the published cutting, merging and padding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.layers.tiles import cut_tiles, merge_tiles, pad_to_tiles, padded_side

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "crt" / "tiling_merging.npz")


def test_published_tiles() -> None:
    drawn = np.random.RandomState(int(GOLDEN["tile_input_seed"])).standard_normal((2, 1, 336, 448))
    tiles, grid = cut_tiles(torch.from_numpy(drawn.astype(np.float32)), 224, 112)
    assert grid == (GOLDEN["num_h"], GOLDEN["num_w"])
    np.testing.assert_allclose(tiles.sum(dim=(1, 2, 3)), GOLDEN["tile_sums"], rtol=0, atol=1e-2)
    np.testing.assert_array_equal(tiles[:, 0, 0, :4], GOLDEN["tile_corner"])


def test_published_merging() -> None:
    merged = merge_tiles(torch.from_numpy(GOLDEN["merge_in"]), (2, 3), 7)
    np.testing.assert_allclose(merged, GOLDEN["merge_out"], rtol=0, atol=1e-5)


def test_published_padding() -> None:
    for height, width, *padded in GOLDEN["pad_cases"].tolist():
        assert list(pad_to_tiles(torch.zeros(1, 1, height, width), 224, 112).shape[2:]) == padded


@pytest.mark.parametrize(("side", "expected"), [(1, 224), (224, 224), (225, 336), (336, 336), (375, 448)])
def test_exact_padding_grows_only_where_it_must(side: int, expected: int) -> None:
    assert padded_side(side, 224, 112, exact=True) == expected


@pytest.mark.parametrize(("tile", "stride"), [(6, 2), (6, 3), (6, 6)])
def test_merging_undoes_cutting(tile: int, stride: int) -> None:
    images = torch.randn(3, 2, 12, 18)
    tiles, grid = cut_tiles(images, tile, stride)
    torch.testing.assert_close(merge_tiles(tiles, grid, stride), images)

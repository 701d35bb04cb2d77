"""Pairs of pixels, their affinities, labels and losses, against the published ones."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from models.layers.pixel_pairs import (
    Windows,
    affinities,
    offsets,
    pair_displacements,
    pair_labels,
    pair_losses,
    pixel_pairs,
)

FOLDER = Path(__file__).parents[2] / "golden" / "crt"
PATHS = np.load(FOLDER / "path_index.npz")
PAIRS = np.load(FOLDER / "affinity_displacement.npz")


@pytest.mark.parametrize("radius", [5, 10])
def test_published_pairs_and_paths(radius: int) -> None:
    pairs = pixel_pairs(radius)
    np.testing.assert_array_equal([pair.offset for pair in pairs], PATHS[f"search_dst_r{radius}"])
    groups = {length: list(group) for length, group in groupby(pairs, key=lambda pair: len(pair.path))}
    np.testing.assert_array_equal(list(groups), PATHS[f"path_lengths_r{radius}"])
    for length, group in groups.items():
        np.testing.assert_array_equal([pair.path for pair in group], PATHS[f"paths_r{radius}_len{length}"])


@pytest.mark.parametrize(("radius", "step"), [(5, 1), (10, 97)])
def test_published_places_of_pairs(radius: int, step: int) -> None:
    height, width = PATHS[f"size_r{radius}"].tolist()
    seen = Windows(torch.arange(height * width).view(1, 1, height, width), radius)
    np.testing.assert_array_equal(seen.at((0, 0))[0, 0], PATHS[f"src_indices_r{radius}"])
    others = PATHS["dst_indices_r5" if step == 1 else "dst_indices_r10_strided"]
    np.testing.assert_array_equal(seen.others(radius).flatten()[::step], others.flatten())


def test_published_affinities_displacements_and_losses_of_pairs() -> None:
    edge, displacement = (torch.from_numpy(PAIRS[name]) for name in ("edge", "disp"))
    affinity, moved = affinities(edge, 5), pair_displacements(displacement, 5)
    np.testing.assert_allclose(affinity, PAIRS["affinity"], atol=1e-5)
    np.testing.assert_allclose(moved, PAIRS["pair_disp"], atol=1e-5)
    np.testing.assert_array_equal(offsets(5, moved), PAIRS["disp_target"])
    # Of one pair at a time the losses are means over that pair alone.
    pair, pixel = 7, 20
    chosen = torch.zeros(2, 34, 48, dtype=torch.bool)
    chosen[1, pair, pixel] = True
    none = torch.zeros_like(chosen)
    labels = type(pair_labels(torch.zeros(1, 12, 14), 5, 20))
    found = pair_losses(edge, displacement, labels(none, chosen, chosen), 5)
    expected = {"pos": PAIRS["pos_loss"][1, pair, pixel] / 2, "neg": PAIRS["neg_loss"][1, pair, pixel]}
    expected["dp_fg"] = PAIRS["disp_loss"][1, :, pair, pixel].mean()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4)
    assert found["dp_bg"] == 0


def test_unknown_pixels_say_nothing() -> None:
    labels = torch.full((1, 12, 14), 255)
    found = pair_labels(labels, 5, 20)
    assert not (found.background | found.foreground | found.different).any()
    labels[:] = 20
    assert pair_labels(labels, 5, 20).foreground.all() and not pair_labels(labels, 5, 19).foreground.any()


def test_a_map_without_room_for_the_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="has no pixel with neighbours 9 cells away"):
        affinities(torch.zeros(1, 1, 12, 18), 10)

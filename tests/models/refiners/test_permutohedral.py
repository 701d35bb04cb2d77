import numpy as np
import pytest
import torch
from torch import Tensor

from models.refiners.permutohedral import Vertices, build_lattice, enclosing_simplices, sort_with_places


def grid(side: int, spacing: float) -> Tensor:
    """Return the points of a square grid, (side * side, 2)."""
    steps = torch.arange(side) * spacing
    return torch.cartesian_prod(steps, steps)


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_points_are_the_weighted_sums_of_their_corners(dimensions: int) -> None:
    """Interpolating a linear function of position over the simplex gives its value at the point."""
    features = torch.randn(501, dimensions, generator=torch.Generator().manual_seed(0)) * 3
    simplices = enclosing_simplices(features)
    assert simplices.weights.min() > -1e-4 and simplices.weights.max() < 1 + 1e-4
    torch.testing.assert_close(simplices.weights.sum(0), torch.ones(501), atol=1e-5, rtol=0)
    # Keys, read as digits, are the corners' coordinates; the first of them grows with all features.
    corners = torch.stack([
        (keys // simplices.radix[0]) * (dimensions + 1) + remainder for remainder, keys in enumerate(simplices.keys)
    ])  # fmt: skip
    position = (corners * simplices.weights).sum(0)
    matrix = torch.cat([features, torch.ones(501, 1)], 1).double()
    fitted = torch.linalg.lstsq(matrix, position[:, None].double()).solution
    torch.testing.assert_close((matrix @ fitted)[:, 0], position.double(), atol=1e-3, rtol=0)


def test_filter_is_close_to_a_gaussian() -> None:
    features = grid(41, 0.25)
    impulse = torch.zeros(len(features), 1)
    centre = len(features) // 2
    impulse[centre] = 1
    blurred = build_lattice(features).filter(impulse)[:, 0]
    exact = torch.exp(-(features - features[centre]).square().sum(1) / 2)
    # The lattice scales the kernel by a constant, and approximates its form.
    scale = blurred.sum() / exact.sum()
    assert (blurred - scale * exact).abs().max() < 0.12 * scale


def test_filter_of_constant_field_is_the_same_for_all_classes() -> None:
    lattice = build_lattice(grid(9, 0.5))
    blurred = lattice.filter(torch.ones(81, 1) * torch.tensor([1.0, 2.0, 0.0]))
    torch.testing.assert_close(blurred[:, 1], 2 * blurred[:, 0])
    assert (blurred[:, 2] == 0).all()


def test_order_of_points_does_not_matter() -> None:
    rng = torch.Generator().manual_seed(1)
    features, values = torch.randn(300, 5, generator=rng) * 2, torch.rand(300, 4, generator=rng)
    order = torch.randperm(300, generator=rng)
    blurred = build_lattice(features).filter(values)
    torch.testing.assert_close(build_lattice(features[order]).filter(values[order]), blurred[order])


def test_images_share_nothing() -> None:
    rng = torch.Generator().manual_seed(2)
    features, values = torch.randn(300, 3, generator=rng), torch.rand(300, 4, generator=rng)
    image = torch.arange(300) // 100
    together = build_lattice(features, image).filter(values)
    for number in range(3):
        mine = image == number
        torch.testing.assert_close(build_lattice(features[mine]).filter(values[mine]), together[mine])


def test_scaled_lattice() -> None:
    rng = torch.Generator().manual_seed(3)
    features, values = torch.randn(50, 2, generator=rng), torch.rand(50, 3, generator=rng)
    before, after = torch.rand(50, generator=rng), torch.rand(50, generator=rng)
    lattice = build_lattice(features)
    expected = after[:, None] * lattice.filter(before[:, None] * values)
    torch.testing.assert_close(lattice.scaled(before, after).filter(values), expected)


def test_vertices_are_numbered_by_first_use() -> None:
    vertices = Vertices(enclosing_simplices(grid(6, 0.7)))
    seen: list[int] = []
    for ids in vertices.ids.t().tolist():
        fresh = sorted(i for i in ids if i not in seen)
        assert fresh == list(range(len(seen), len(seen) + len(fresh)))
        seen += fresh
    assert len(seen) == vertices.count


def test_neighbours_are_one_step_apart() -> None:
    simplices = enclosing_simplices(grid(7, 0.9))
    vertices = Vertices(simplices)
    where = {}
    for corner, (keys, ids) in enumerate(zip(simplices.keys.tolist(), vertices.ids.tolist(), strict=True)):
        where.update({i: (corner, key) for key, i in zip(keys, ids, strict=True)})
    for direction in range(3):
        pairs = set(zip(*(ends.tolist() for ends in vertices.neighbours(direction)), strict=True))
        places = {place: i for i, place in where.items()}
        steps = {i: ((c + 1) % 3, key + simplices.step(c, direction)) for i, (c, key) in where.items()}
        assert pairs == {(i, places[step]) for i, step in steps.items() if step in places}
        assert pairs


@pytest.mark.parametrize("largest", [10, 2**40, 2**60])
def test_sort_keeps_places(largest: int) -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(0, largest, 1000))
    ordered, places = sort_with_places(values)
    expected = values.sort(stable=True)
    assert torch.equal(ordered, expected.values) and torch.equal(places, expected.indices)


def test_features_too_far_apart() -> None:
    features = torch.zeros(2, 5)
    features[1] = 1e6
    with pytest.raises(ValueError, match="larger standard deviations"):
        build_lattice(features)

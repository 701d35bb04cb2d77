"""Batches of one size."""

from pathlib import Path

import pytest

from utils.data.loading import batches_by_size, image_batches
from utils.errors import UserError


def test_each_index_once_and_one_size_a_batch() -> None:
    sizes = [(4, 3), (3, 4), (4, 3), (4, 3), (3, 4), (5, 5)]
    batches = batches_by_size(sizes, 2)
    assert batches == [[0, 2], [3], [1, 4], [5]]
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    assert all(len({sizes[i] for i in batch}) == 1 for batch in batches)


def test_single_images_are_not_opened() -> None:
    assert image_batches([Path("missing_a.jpg"), Path("missing_b.jpg")], 1) == [[0], [1]]
    with pytest.raises(UserError, match=r"missing_a\.jpg"):
        image_batches([Path("missing_a.jpg"), Path("missing_b.jpg")], 2)

"""Batches of one size."""

import contextlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.deeplab_schema import ImageConfig
from utils.data.items import Item
from utils.data.loading import batches_by_size, image_batches, whole_images
from utils.errors import UserError
from utils.runtime.device import PLANNED, convolving


def test_each_index_once_and_one_size_a_batch() -> None:
    sizes = [(4, 3), (3, 4), (4, 3), (4, 3), (3, 4), (5, 5)]
    batches = batches_by_size(sizes, 2)
    assert batches == [[0, 2], [3], [1, 4], [5]]
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    assert all(len({sizes[i] for i in batch}) == 1 for batch in batches)


def test_single_images_are_not_opened_unless_sizes_are_counted() -> None:
    missing = [Path("missing_a.jpg"), Path("missing_b.jpg")]
    assert image_batches(missing, 1, counts=False) == ([[0], [1]], [])
    for batch_size, counts in ((2, False), (1, True)):
        with pytest.raises(UserError, match=r"missing_a\.jpg"):
            image_batches(missing, batch_size, counts=counts)


def test_batches_know_how_many_images_have_their_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, size in zip(paths, [(4, 3), (3, 4), (4, 3), (4, 3)], strict=True):
        Image.new("RGB", size).save(path)
    assert image_batches(paths, 2, counts=True) == ([[0, 2], [3], [1]], [3, 1, 3, 3])
    loader = whole_images([Item(p.stem, p, None) for p in paths], ImageConfig(), batch_size=2, workers=0, pin_memory=True)
    assert [(len(batch.items), batch.alike) for batch in loader] == [(2, 3), (1, 3), (1, 1)]


@pytest.mark.parametrize("fails", [False, True])
def test_sizes_of_few_images_are_computed_without_plans(fails: bool) -> None:
    cuda, usual = torch.device("cuda"), torch.backends.cudnn.enabled
    seen = []
    for device, count in ((cuda, 1), (cuda, PLANNED - 1), (cuda, PLANNED), (torch.device("cpu"), 1)):
        with contextlib.suppress(RuntimeError), convolving(count, device):
            seen.append(torch.backends.cudnn.enabled)
            if fails:
                raise RuntimeError
        assert torch.backends.cudnn.enabled == usual
    assert seen == [False, False, usual, usual]

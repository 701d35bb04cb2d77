import json
from pathlib import Path

import numpy as np
import pytest

from tests.bank_files import write_cutout, write_tiny_bank
from utils.data.images import write_png
from utils.data.paste import INDEX_NAME, ForegroundBank, write_index
from utils.errors import UserError


def test_objects_come_back_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mask = rng.random((5, 7)) > 0.5
    saliency = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    write_index(tmp_path, [write_cutout(tmp_path, 3, "a", image, mask, saliency)], {"threshold": 0.35})
    bank = ForegroundBank(tmp_path, 20)
    assert list(bank.entries) == [3]
    cutout = bank.load(bank.entries[3][0])
    np.testing.assert_array_equal(cutout.image, image)  # what is transparent is kept too
    np.testing.assert_array_equal(cutout.labels, mask * 4)
    np.testing.assert_array_equal(cutout.saliency, saliency)
    assert json.loads((tmp_path / INDEX_NAME).read_text())["made_with"] == {"threshold": 0.35}


def test_unusable_banks_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index .*none/index.json cannot be read .*run scripts.make_foreground_bank first"):
        ForegroundBank(tmp_path / "none", 3)
    write_index(tmp_path, [], {})
    with pytest.raises(UserError, match=r"foreground bank .* holds no object; run scripts.make_foreground_bank with wider"):
        ForegroundBank(tmp_path, 3)
    (tmp_path / INDEX_NAME).write_text('{"objects": [{}]}')
    with pytest.raises(UserError, match=r"index .* is damaged \(it lacks 'box'\); make it anew"):
        ForegroundBank(tmp_path, 3)
    write_tiny_bank(tmp_path, classes=(0, 5))
    with pytest.raises(UserError, match=r"holds class 5, the data set has 0 to 2"):
        ForegroundBank(tmp_path, 3)
    bank = ForegroundBank(tmp_path, 6)
    (tmp_path / "0" / "square_0.png").unlink()
    with pytest.raises(UserError, match=r"square_0.png does not exist"):
        bank.load(bank.entries[0][0])


def test_plain_pictures_are_a_bank(tmp_path: Path) -> None:
    """As `sem_seg_fg/`: a folder a class, pictures with alpha or on black, with saliency beside them or without."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[1:3, 2:5] = (0, 9, 200)
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:2], alpha[2] = 255, 100
    levels = np.full((4, 6), 70, np.uint8)
    write_png(tmp_path / "2" / "black.png", image)
    write_png(tmp_path / "0" / "soft.png", np.dstack([image, alpha]))
    write_png(tmp_path / "0" / "soft_saliency.png", levels)
    (tmp_path / "notes").mkdir()
    bank = ForegroundBank(tmp_path, 3)
    assert {k: [entry.image_id for entry in of_class] for k, of_class in bank.entries.items()} == {0: ["soft"], 2: ["black"]}
    black, soft = bank.load(bank.entries[2][0]), bank.load(bank.entries[0][0])
    inside = image.any(axis=2)
    np.testing.assert_array_equal(black.image, image)
    np.testing.assert_array_equal(black.labels, inside * 3)
    np.testing.assert_array_equal(black.saliency, inside * 255)
    np.testing.assert_array_equal(soft.labels, alpha == 255)
    np.testing.assert_array_equal(soft.saliency, levels)
    write_png(tmp_path / "0" / "soft.png", levels)
    with pytest.raises(UserError, match="has mode L, expected an RGBA PNG, or RGB on black"):
        bank.load(bank.entries[0][0])
    with pytest.raises(UserError, match="holds class 2, the data set has 0 to 1"):
        ForegroundBank(tmp_path, 2)

"""Pasting as the data set does it: the published pair with fixed draws, and every option on its own."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from configs.paste_schema import PasteConfig
from configs.schema import DataConfig
from models.l2g import L2GSettings
from tests.bank_files import write_cutout, write_tiny_bank
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.data.paste import collate_views, write_index
from utils.data.samplers import EpochBatchSampler, SampleRng
from utils.data.samples import ViewDataset
from utils.errors import UserError

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "sa_cda" / "cda_dataset_item.npz")
PASTED_CLASS = 7
SMALL = L2GSettings(input_size=32, crop_size=24, patches=4, short_side=40)
GREY_LEVEL = 1 / 255 / 0.224


def _golden_set(root: Path, **options: Any) -> ViewDataset:
    for folder in ("JPEGImages", "Sal"):
        (root / folder).mkdir()
    Image.fromarray(GOLDEN["img"]).save(root / "JPEGImages" / "a.jpg", "PNG")  # lossless under the usual name
    Image.fromarray(GOLDEN["sal"]).save(root / "Sal" / "a.png")
    (root / "list.txt").write_text("a " + " ".join(str(k) for k in range(20) if k != PASTED_CLASS))
    bank = root / "bank"
    entry = write_cutout(bank, PASTED_CLASS, "a", GOLDEN["fg_img"], GOLDEN["fg_seg"] > 0, GOLDEN["fg_sal"])
    write_index(bank, [entry], {})
    paste = PasteConfig(mode="pair", bank=str(bank), **options)
    return ViewDataset(DataConfig(root=str(root), train_list=str(root / "list.txt")), L2GSettings(paste=paste), seed=0)


def test_published_pair(tmp_path: Path) -> None:
    dataset = _golden_set(tmp_path, leak_labels=True, swap_background=True)
    rng = SampleRng(np.random.RandomState(22), random.Random(21))
    item = dataset.load(0, rng)
    assert (rng.python.random(), rng.numpy.random_sample()) == (GOLDEN["next_py"], GOLDEN["next_np"])
    for view, prefix in ((item["pasted"], ""), (item["original"], "ori_")):
        np.testing.assert_array_equal(view["boxes"], GOLDEN[f"{prefix}boxes"][:, 1:])
        np.testing.assert_array_equal(view["labels"], GOLDEN[f"{prefix}label"])
        np.testing.assert_array_equal(view["local_labels"].expand(6, -1), GOLDEN[f"{prefix}label_local"])
        name = f"{prefix}image_sub"
        np.testing.assert_allclose(view["images"][:, ::16, ::16], GOLDEN[name], rtol=0, atol=1.01 * GREY_LEVEL, err_msg=name)
        np.testing.assert_allclose(view["images"].double().abs().mean(), GOLDEN[f"{prefix}image_stats"][2], rtol=1e-4)
        crops = torch.stack([view["saliency"][:, y1:y2, x1:x2] for x1, y1, x2, y2 in view["boxes"]])
        np.testing.assert_allclose(crops[:, :, ::16, ::16], GOLDEN[f"{prefix}crop_sals_sub"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(crops.double().sum(), GOLDEN[f"{prefix}crop_sals_sum"], rtol=1e-6)


def test_without_the_published_mistakes_only_labels_and_colours_change(tmp_path: Path) -> None:
    item = _golden_set(tmp_path).load(0, SampleRng(np.random.RandomState(22), random.Random(21)))
    assert item["pasted"]["labels"].sum() == 20
    assert item["original"]["labels"].nonzero().flatten().tolist() == [k for k in range(20) if k != PASTED_CLASS]
    assert "local_labels" not in item["pasted"]
    difference = np.abs(item["pasted"]["images"][:, ::16, ::16].numpy() - GOLDEN["image_sub"])
    assert difference.max() > 10 * GREY_LEVEL
    np.testing.assert_allclose(item["original"]["images"][:, ::16, ::16], GOLDEN["ori_image_sub"], rtol=0, atol=0.03)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    root = write_tiny_voc(tmp_path)
    return DataConfig(root=str(root), num_classes=CLASSES, train_list=str(root / "train_cls.txt"))


def _dataset(data: DataConfig, tmp_path: Path, held: tuple[int, ...] = (0, 1, 2), **options: Any) -> ViewDataset:
    bank = write_tiny_bank(tmp_path / "bank", held)
    paste = PasteConfig(bank=str(bank), **{"mode": "replace", **options})
    return ViewDataset(data, replace(SMALL, color_jitter=[0.0] * 4, paste=paste), 0)


def test_originals_of_pairs_are_the_samples_without_pasting(data: DataConfig, tmp_path: Path) -> None:
    pairs = _dataset(data, tmp_path, mode="pair")
    plain = ViewDataset(data, replace(SMALL, color_jitter=[0.0] * 4), 0)
    for index in range(len(plain)):
        pair, sample = pairs[2, index], plain[2, index]
        assert all(torch.equal(pair["original"][k], sample[k]) for k in ("images", "saliency", "boxes", "labels"))
        assert pair["pasted"]["labels"].sum() > sample["labels"].sum() or sample["labels"].sum() == CLASSES


def test_a_batch_of_pairs_has_pasted_views_first(data: DataConfig, tmp_path: Path) -> None:
    dataset = _dataset(data, tmp_path, mode="pair", from_epoch=1)
    sampler = EpochBatchSampler(len(dataset), 2, shuffle=False, seed=0, epoch=1)
    batch = next(iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_views, num_workers=2)))
    pairs = [dataset[1, i] for i in range(2)]
    assert batch["id"] == ["img_000", "img_001"] and batch["images"].shape == (4, 3, 32, 32)
    expected = [pair[name]["images"] for name in ("pasted", "original") for pair in pairs]
    assert torch.equal(batch["images"], torch.stack(expected))
    before = next(iter(DataLoader(dataset, batch_sampler=[[(0, 0), (0, 1)]], collate_fn=collate_views)))
    assert before["images"].shape == (2, 3, 32, 32)  # pasting begins with epoch 1


def test_what_is_pasted(data: DataConfig, tmp_path: Path) -> None:
    absent_only = _dataset(data, tmp_path, held=(2,))
    for index in range(len(absent_only)):
        present = absent_only.labels[absent_only.ids[index]]
        plain = ViewDataset(data, absent_only.sample, 0).load(index, _rng(), pasting=False)
        pasted = absent_only.load(index, _rng())
        # Its only class is there already: nothing is pasted, nothing drawn.
        assert (2 in present) == torch.equal(pasted["images"], plain["images"])
        assert pasted["labels"][2] == 1 and pasted["labels"].sum() == len({*present, 2})


def _rng() -> SampleRng:
    return SampleRng(np.random.RandomState(0), random.Random(0))


def test_classes_number_and_probability(data: DataConfig, tmp_path: Path) -> None:
    never = _dataset(data, tmp_path, probability=0.0)
    assert torch.equal(never[0, 0]["labels"], ViewDataset(data, SMALL, 0)[0, 0]["labels"])
    half = _dataset(data, tmp_path, probability=0.5, only=[2])
    without = [i for i, name in enumerate(half.ids) if 2 not in half.labels[name]]
    hits = [bool(half[epoch, without[0]]["labels"][2]) for epoch in range(40)]
    assert 8 <= sum(hits) <= 32
    two = _dataset(data, tmp_path, number=2)
    single = next(i for i, name in enumerate(two.ids) if len(two.labels[name]) == 1)
    assert two[0, single]["labels"].sum() == 3
    again = _dataset(data, tmp_path, classes="any", only=[two.labels[two.ids[single]][0]])
    plain = ViewDataset(data, replace(SMALL, color_jitter=[0.0] * 4), 0)
    assert torch.equal(again[0, single]["labels"], plain[0, single]["labels"])
    assert any(not torch.equal(again[e, single]["images"], plain[e, single]["images"]) for e in range(3))


def test_without_saliency_objects_are_pasted_all_the_same(data: DataConfig, tmp_path: Path) -> None:
    bank = write_tiny_bank(tmp_path / "bank")
    paste = PasteConfig(mode="replace", bank=str(bank), number=3)
    item = ViewDataset(replace(data, saliency_dir="none"), replace(SMALL, saliency="none", paste=paste), 0)[0, 0]
    assert item["labels"].sum() == CLASSES and item["saliency"].eq(1).all()


def test_classes_missing_from_the_bank_are_told(data: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no object of the classes \[1\]; it has those of \[0, 2\]"):
        _dataset(data, tmp_path, held=(0, 2), only=[1])

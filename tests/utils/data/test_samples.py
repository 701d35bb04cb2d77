import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from configs.fields import broken_rules
from configs.schema import DataConfig
from models.l2g import L2GSettings
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.data.samplers import EpochBatchSampler, SampleRng
from utils.data.samples import ViewDataset
from utils.errors import UserError

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "dataset_items.npz")
NAMES = ("land", "port")
COCO_CONSTANTS = {"mean": [0.471, 0.448, 0.408], "std": [0.234, 0.239, 0.242]}
SQUARE = {"resize": "square", "boxes": "random", "patches": 4, "saliency_resize": "bilinear"}
# Golden name -> (L2G options, data options, step of the stored pixels, tolerance of the saliency).
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, float]] = {
    "voc": ({"short_side": 112, "input_size": 96, "crop_size": 64}, {}, 1, 1e-6),
    "voc448": ({}, {}, 7, 1e-6),
    "coco": ({**SQUARE, "input_size": 96, "crop_size": 64}, {**COCO_CONSTANTS, "num_classes": 80}, 1, 0.01),
}
SMALL = L2GSettings(input_size=32, crop_size=24, patches=4, short_side=40)


def stats(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.numpy().astype(np.float64)
    return np.array([array.sum(), array.mean(), np.abs(array).mean(), array.max(), array.min()])


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys() and one["id"] == two["id"]
    for key in one.keys() - {"id"}:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def write_golden_set(root: Path) -> dict[str, Any]:
    for folder in ("JPEGImages", "Sal"):
        (root / folder).mkdir()
    lines = []
    for name in NAMES:  # lossless content under the usual name
        Image.fromarray(GOLDEN[f"src_{name}"]).save(root / "JPEGImages" / f"{name}.jpg", "PNG")
        Image.fromarray(GOLDEN[f"sal_{name}"]).save(root / "Sal" / f"{name}.png")
        lines.append(f"{name} {' '.join(str(k) for k in GOLDEN[f'voc_{name}_label'])}")
    (root / "list.txt").write_text("\n".join(lines))
    return {"root": str(root), "train_list": str(root / "list.txt")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("index", [0, 1])
def test_published_samples(tmp_path: Path, case: str, index: int) -> None:
    options, constants, step, tolerance = CASES[case]
    dataset = ViewDataset(DataConfig(**write_golden_set(tmp_path), **constants), L2GSettings(**options), seed=0)
    item = dataset.load(index, SampleRng(np.random.RandomState(200 + index), random.Random(100 + index)))
    golden = {key: GOLDEN[f"{case}_{NAMES[index]}_{key}"] for key in ("image", "boxes", "label", "crop_sal0")}
    prefix = f"{case}_{NAMES[index]}"
    np.testing.assert_array_equal(item["boxes"].numpy(), golden["boxes"][:, 1:])
    np.testing.assert_allclose(item["images"][:, ::step, ::step].numpy(), golden["image"], rtol=0, atol=0.03)
    np.testing.assert_allclose(stats(item["images"])[1:3], GOLDEN[f"{prefix}_image_stats"][1:3], rtol=0, atol=0.01)
    assert item["labels"].nonzero().flatten().tolist() == golden["label"].tolist()
    assert item["id"] == NAMES[index]
    crops = [(item["images"][:, y1:y2, x1:x2], item["saliency"][:, y1:y2, x1:x2]) for x1, y1, x2, y2 in item["boxes"]]
    for k, (image, saliency) in enumerate(crops):
        np.testing.assert_allclose(stats(image)[1:3], GOLDEN[f"{prefix}_crop_img_stats"][k][1:3], rtol=0, atol=0.01)
        np.testing.assert_allclose(stats(saliency)[1:], GOLDEN[f"{prefix}_crop_sal_stats"][k][1:], rtol=0, atol=tolerance)
    for position, expected in ((0, golden["crop_sal0"]), (-1, GOLDEN[f"{prefix}_crop_sal_last"])):
        np.testing.assert_allclose(crops[position][1][:, ::step, ::step].numpy(), expected, rtol=0, atol=tolerance)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    root = write_tiny_voc(tmp_path)
    return DataConfig(root=str(root), num_classes=CLASSES, train_list=str(root / "train_cls.txt"))


def test_shapes_and_types(data: DataConfig) -> None:
    item = ViewDataset(data, SMALL, seed=0)[0, 1]
    described = {key: (tuple(value.shape), value.dtype) for key, value in item.items() if isinstance(value, torch.Tensor)}
    assert described == {
        "images": ((3, 32, 32), torch.float32),
        "saliency": ((1, 32, 32), torch.float32),
        "boxes": ((4, 4), torch.int64),
        "labels": ((3,), torch.float32),
    }
    assert item["saliency"].min() >= 0 and item["saliency"].max() <= 1


def test_keys_fix_samples(data: DataConfig) -> None:
    dataset, again, other = (ViewDataset(data, SMALL, seed) for seed in (0, 0, 1))
    assert_same(dataset[3, 2], again[3, 2])
    for different in (dataset[4, 2], other[3, 2]):
        assert not torch.equal(dataset[3, 2]["images"], different["images"])


def test_loader_workers_make_the_same_batches(data: DataConfig) -> None:
    dataset = ViewDataset(data, SMALL, seed=0)
    results = []
    for workers in (0, 2):
        sampler = EpochBatchSampler(len(dataset), 4, shuffle=True, seed=0)
        results.append(list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers)))
    for one, two in zip(*results, strict=True):
        assert_same(one, two)
    assert results[0][0]["images"].shape == (4, 3, 32, 32) and len(results[0][0]["id"]) == 4


@pytest.mark.parametrize("crop", ["swapped", "correct"])
@pytest.mark.parametrize("size", [(48, 40), (20, 90), (33, 32)])
def test_views_larger_than_the_image_are_padded(tmp_path: Path, crop: str, size: tuple[int, int]) -> None:
    root = write_tiny_voc(tmp_path, images=2, size=size)
    data = DataConfig(root=str(root), num_classes=CLASSES, train_list=str(root / "train_cls.txt"))
    item = ViewDataset(data, replace(SMALL, input_size=64, short_side=40, crop=crop), seed=0)[0, 0]
    assert item["images"].shape == (3, 64, 64) and item["saliency"].shape == (1, 64, 64)
    assert item["saliency"][0].eq(0).all(dim=0).any() or item["saliency"][0].eq(0).all(dim=1).any()


def test_flip_mirrors_image_and_saliency_alike(data: DataConfig) -> None:
    plain = replace(SMALL, color_jitter=[0.0] * 4)
    straight, flipping = ViewDataset(data, plain, 0), ViewDataset(data, replace(plain, flip=True), 0)
    mirrored = 0
    for epoch in range(20):
        one, two = straight[epoch, 0], flipping[epoch, 0]
        torch.testing.assert_close(one["boxes"], two["boxes"])
        if not torch.equal(one["images"], two["images"]):
            mirrored += 1
            torch.testing.assert_close(one["images"].flip(-1), two["images"], rtol=0, atol=0)
            torch.testing.assert_close(one["saliency"].flip(-1), two["saliency"], rtol=0, atol=0)
    assert 3 <= mirrored <= 17


def test_scale_jitter_changes_the_scale_only_when_it_is_a_range(data: DataConfig) -> None:
    fixed = ViewDataset(data, replace(SMALL, scale_jitter=[1.5, 1.5]), 0)[0, 0]
    same = ViewDataset(data, replace(SMALL, short_side=60), 0)[0, 0]
    torch.testing.assert_close(fixed["images"], same["images"], rtol=0, atol=0)
    assert not torch.equal(ViewDataset(data, replace(SMALL, scale_jitter=[1.0, 2.0]), 0)[0, 0]["images"], fixed["images"])
    (message,) = broken_rules(replace(SMALL, resize="square", scale_jitter=[0.5, 1.0]), "l2g.")
    assert re.search(r"l2g.scale_jitter is .* but l2g.resize=square", message)


def test_no_saliency_needs_no_folder(data: DataConfig) -> None:
    options = replace(SMALL, saliency="none")
    item = ViewDataset(replace(data, saliency_dir="none"), options, 0)[0, 0]
    assert item["saliency"].shape == (1, 32, 32) and item["saliency"].eq(1).all()
    torch.testing.assert_close(item["images"], ViewDataset(data, SMALL, 0)[0, 0]["images"], rtol=0, atol=0)
    with pytest.raises(UserError, match=r"saliency map folder .*none cannot be read"):
        ViewDataset(replace(data, saliency_dir="none"), SMALL, 0)


def test_saliency_without_normalisation(data: DataConfig) -> None:
    raw, scaled = (ViewDataset(data, replace(SMALL, saliency_norm=norm), 0)[0, 0]["saliency"] for norm in ("none", "crop"))
    torch.testing.assert_close(raw / raw.max(), scaled)


def test_wrong_files_are_named(data: DataConfig) -> None:
    dataset = ViewDataset(data, SMALL, 0)
    saliency = Path(data.root) / "Sal" / "img_001.png"
    Image.new("L", (40, 48)).save(saliency)
    with pytest.raises(UserError, match=r"saliency map .*img_001.png is 40x48 pixels, expected 48x40"):
        dataset[0, 1]
    saliency.unlink()
    with pytest.raises(UserError, match=r"1 of 6 saliency map files are missing in .*: img_001.png"):
        ViewDataset(data, SMALL, 0)
    photo = Path(data.root) / "JPEGImages" / "img_002.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(UserError, match=r"img_002.jpg is damaged"):
        dataset[0, 2]

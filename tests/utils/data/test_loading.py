from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.cam_schema import CamConfig
from configs.schema import DataConfig
from utils.data.folder import read_labels
from utils.data.loading import MultiScaleDataset, build_loader
from utils.errors import UserError

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "msf_cam_merge.npz")
GOLDEN_CRT = Path(__file__).parents[2] / "golden" / "crt" / "msf_loader.npz"
SCALES = (0.5, 1.0, 1.5, 2.0)
LABELS = {"2007_000001": (3, 14), "2007_000002": (0,)}


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    (tmp_path / "JPEGImages").mkdir()
    for image_id in LABELS:  # lossless content under the usual name
        Image.fromarray(GOLDEN[f"img_{image_id}"]).save(tmp_path / "JPEGImages" / f"{image_id}.jpg", "PNG")
    return DataConfig(root=str(tmp_path), workers=0)


def test_published_inputs(data: DataConfig) -> None:
    """Golden passes 0 and 1 are scale 0.5 and its mirror image, 7 is the mirror image of scale 2 (of the last image)."""
    dataset = MultiScaleDataset(data, SCALES, LABELS)
    items = {item["id"]: item for item in (dataset[i] for i in range(len(dataset)))}
    assert list(items) == dataset.ids == list(LABELS)
    views = items["2007_000001"]["scales"]
    passes = {0: views[0], 1: views[0].flip(-1), 7: views[3].flip(-1)}
    for index, view in passes.items():
        np.testing.assert_allclose(view[:, ::5, ::5].numpy(), GOLDEN[f"real_in_{index}_slice"], rtol=0, atol=0.02)
        np.testing.assert_allclose(view.double().sum(), GOLDEN[f"real_in_{index}_stats"][0], rtol=1e-3)


def test_published_inputs_at_seven_scales(tmp_path: Path) -> None:
    golden = np.load(GOLDEN_CRT)
    (tmp_path / "JPEGImages").mkdir()
    Image.fromarray(golden["image"]).save(tmp_path / "JPEGImages" / "2007_000032.jpg", "PNG")
    dataset = MultiScaleDataset(DataConfig(root=str(tmp_path), workers=0), golden["scales"].tolist(), {"2007_000032": (0,)})
    for index, view in enumerate(dataset[0]["scales"]):
        assert (2, *view.shape) == tuple(golden[f"scale{index}_shape"])
        pair = np.stack([view[:, ::9, ::11], view.flip(-1)[:, ::9, ::11]])
        np.testing.assert_allclose(pair, golden[f"scale{index}_slice"], rtol=0, atol=0.02)  # a grey level


def test_items(data: DataConfig) -> None:
    item = MultiScaleDataset(data, SCALES, LABELS)[0]
    assert item["size"] == (61, 83) and item["classes"] == (3, 14)
    # Rounded half to even: 30.5 -> 30, 41.5 -> 42.
    assert [tuple(view.shape) for view in item["scales"]] == [(3, 30, 42), (3, 61, 83), (3, 92, 124), (3, 122, 166)]
    tiny = MultiScaleDataset(data, (0.001,), LABELS)[0]["scales"][0]
    assert tuple(tiny.shape) == (3, 1, 1)


def test_missing_image(data: DataConfig) -> None:
    with pytest.raises(UserError, match=r"1 of 1 image files are missing in .*: none.jpg"):
        MultiScaleDataset(data, SCALES, {"none": ()})


def test_images_of_a_list_without_masks(data: DataConfig, tmp_path: Path) -> None:
    test = tmp_path / "voc_test" / "images"
    test.mkdir(parents=True)
    (tmp_path / "JPEGImages" / "2007_000001.jpg").rename(test / "2007_000001.jpg")
    (tmp_path / "test.txt").write_text("voc_test/images/2007_000001.jpg\n2007_000002\n")
    data.paths, data.infer_list = "lists", str(tmp_path / "test.txt")
    labels = read_labels(data, data.infer_list, labels_required=False)
    loader = build_loader(data, CamConfig(scales=[1.0], batch_size=2), labels, pin_memory=False)
    assert sorted(image_id for batch in loader for image_id in batch.ids) == list(LABELS)

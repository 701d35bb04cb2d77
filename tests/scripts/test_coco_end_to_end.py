"""COCO runs the programs VOC runs: official files to pseudo labels, with configs/l2g_coco.yaml and small sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from scripts import check_data, evaluate_cams, gen_gt, make_cams, prepare_coco
from scripts import train as train_l2g
from scripts.build import load_config
from tests.official_coco import SIZE, image_name, write_coco
from utils.data.lists import read_id_list, read_label_list

CONFIG = Path(__file__).parents[2] / "configs" / "l2g_coco.yaml"


def test_official_files_to_pseudo_labels(tmp_path: Path) -> None:
    # Polygons, RLE crowds, images without labels, an image of one grey channel: see tests/official_coco.py.
    coco, data, run_dir = write_coco(tmp_path / "coco", saliency=True), tmp_path / "coco14", tmp_path / "run"
    prepare_coco.run(prepare_coco.CocoSettings(coco, data, saliency=coco / "Sal", workers=1))
    cfg = load_config(
        CONFIG,
        [
            f"data.root={data}", f"run_dir={run_dir}", "data.workers=0", "device=cpu", "model.width=0.0625",
            "model.pretrained=", "train.batch_size=4", "train.images_every=0", "l2g.input_size=32",
            "l2g.crop_size=24", "cam.scales=[1.0]", "eval.workers=1", "pseudo.workers=1", "check.workers=1",
            # The published names: 15 epochs (here of one batch), the middle and the last one kept.
            "train.published_name=mscoco", f"cam.checkpoint={run_dir}/model/mscoco_epoch_14.pth",
        ],
    )  # fmt: skip
    checked = check_data.run(cfg)
    assert checked["training_can_start"] and checked["findings"] == []
    assert checked["images"] == 8  # both splits, without the images that have no labels
    assert train_l2g.run(cfg) == 0
    assert {path.name for path in (run_dir / "model").glob("mscoco*")} == {"mscoco_epoch_7.pth", "mscoco_epoch_14.pth"}
    labels = read_label_list(data / "train_cls.txt", 80)
    make_cams.run(cfg)
    cams = sorted(path.name for path in (run_dir / "ms" / "attention").glob("*.png"))
    assert cams == sorted(f"{image_id}_{k}.png" for image_id, classes in labels.items() for k in classes)
    result = evaluate_cams.run(cfg)
    assert [entry["threshold"] for entry in result["thresholds"]] == [0.2, 0.3]
    assert len(result["thresholds"][0]["iou"]) == 81
    assert result["thresholds"][0]["iou"]["zebra"] is None  # in no image
    gen_gt.run(cfg)
    for image_id, classes in labels.items():
        with Image.open(data / "pseudo_seg_labels" / f"{image_id}.png") as label:
            assert label.size == SIZE
            assert set(np.unique(np.asarray(label)).tolist()) <= {0, *(k + 1 for k in classes)}
    # The list the published label generation reads: the ids of train_cls.txt, with paths.
    assert read_id_list(data / "train.txt") == list(labels)
    assert image_name("train2014", 3) in labels
    assert len((data / "labels.txt").read_text().splitlines()) == 81
    assert json.loads((data / "pseudo_seg_labels" / "pseudo_labels.json").read_text())["images"] == len(labels)

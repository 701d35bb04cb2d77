"""A tiny finished run of all stages for the report's tests: CAMs, pseudo labels, a segmentation stage, event files."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import yaml
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from scripts import evaluate_cams as evaluate_cam
from scripts import gen_gt
from scripts.build import load_config
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.data.classes import palette
from utils.data.images import write_png
from utils.evaluation.metrics import confusion_matrix, score

ROOT = Path(__file__).parents[1]
IMAGES = 6
NAMES = ["background", "red & <b>", "green", "blue"]


def make_run(root: Path, name: str = "run", *, shift: int = 3, deeplab: bool = True) -> Path:
    """Write a run whose maps are the ground truth moved by `shift` pixels; returns its folder."""
    data, run = root / "data", root / name
    if not data.exists():
        write_tiny_voc(data, images=IMAGES)
        (data / "classes.txt").write_text("\n".join(NAMES[1:]))
    _write_cams(data, run / "ms/attention", shift)
    settings = [
        f"name={name}", f"run_dir={run}", f"data.root={data}", f"data.num_classes={CLASSES}",
        f"data.class_names={data}/classes.txt", "eval.workers=1", "pseudo.workers=1", f"pseudo.out_dir={run}/pseudo_saliency",
        "pseudo.fusion=saliency",
    ]  # fmt: skip
    cfg = load_config(ROOT / "configs" / "l2g_voc.yaml", settings)
    with patch("scripts.evaluate_cams._draw"):  # its own plots take longer than all the rest
        evaluate_cam.run(cfg)
    gen_gt.run(cfg)
    write_scalars(run / "tb", "train/cls_global", [0.7, 0.5, 0.4])
    (run / "model").mkdir()
    (run / "model/summary.json").write_text(
        json.dumps({"seconds": 75, "images": IMAGES, "peak_memory_gib": 0.5, "device": "cpu"})
    )
    if deeplab:
        write_deeplab(data, run / "deeplab", shift)
    return run


def write_deeplab(data: Path, out: Path, shift: int) -> None:
    """Write predictions of the first images as the split "val" and their scores, without and with CRF."""
    for crf in ("", "_crf"):
        counts = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
        folder = out / f"predictions/exp/net/val{crf}"
        for index in range(IMAGES):
            truth = np.array(Image.open(data / f"SegmentationClassAug/img_{index:03d}.png"))
            labels = np.roll(truth, shift // (2 if crf else 1), axis=1)
            write_png(folder / f"img_{index:03d}.png", labels, palette())
            counts += confusion_matrix(truth, labels, CLASSES)
        scores = score(counts)
        result = {
            "Pixel Accuracy": float(np.trace(counts) / counts.sum()),
            "Mean IoU": float(scores.mean_iou),
            "Class IoU": {str(i): float(v) for i, v in enumerate(scores.iou)},
            "Class Names": NAMES,
            "Confusion Matrix": counts.tolist(),
            **({"CRF": {"image": "published", "iter_max": 10}} if crf else {}),
        }
        path = out / f"scores/exp/net/val/scores{crf}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    write_scalars(out / "logs/exp", "loss/train", [2.0, 1.0])
    write_scalars(out / "logs/exp", "lr/group_0", [2e-4, 1e-4], file="1")
    settings = {
        "exp": {"id": "exp"},
        "dataset": {"root": str(data), "n_classes": CLASSES + 1},
        "solver": {"lr": 2e-4},
        "seed": 1,
    }
    (out / "logs/exp/config.yaml").write_text(yaml.safe_dump(settings))


def write_scalars(folder: Path, tag: str, values: list[float], file: str = "0") -> None:
    """Write an event file with values at steps 10, 20, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"events.out.tfevents.{file}").open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=1, file_version="brain.Event:2").SerializeToString())
        for index, value in enumerate(values, start=1):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(Event(wall_time=index, step=10 * index, summary=summary).SerializeToString())


def _write_cams(data: Path, folder: Path, shift: int) -> None:
    for line in (data / "train_cls.txt").read_text().splitlines():
        image_id, *classes = line.split()
        truth = np.array(Image.open(data / f"SegmentationClassAug/{image_id}.png"))
        for k in map(int, classes):
            cam = np.roll((truth == k + 1) * np.uint8(200), shift, axis=0)
            write_png(folder / f"{image_id}_{k}.png", cam.astype(np.uint8))

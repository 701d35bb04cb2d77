"""A tiny finished run of all stages for the report's tests: CAMs, pseudo labels, a segmentation stage, event files."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from scripts import evaluate_cams, gen_gt
from scripts.build import load_config
from tests.tiny_data import CLASSES, write_tiny_voc
from utils.config import flat_settings
from utils.data.classes import palette
from utils.data.images import write_png
from utils.evaluation.metrics import confusion_matrix, score
from utils.runtime import cards
from utils.runtime.cards import StageCard, write_card

ROOT = Path(__file__).parents[1]
IMAGES = 6
NAMES = ["background", "red & <b>", "green", "blue"]


def make_run(root: Path, name: str = "run", *settings: str, shift: int = 3, deeplab: bool = True) -> Path:
    """Write a run with further `settings` whose maps are the ground truth moved by `shift` pixels; returns its folder."""
    data, run = root / "data", root / name
    if not data.exists():
        write_tiny_voc(data, images=IMAGES)
        (data / "classes.txt").write_text("\n".join(NAMES[1:]))
    _write_cams(data, run / "ms/attention", shift)
    overrides = [
        f"name={name}", f"run_dir={run}", f"data.root={data}", f"data.num_classes={CLASSES}",
        f"data.class_names={data}/classes.txt", "eval.workers=1", "pseudo.workers=1", f"pseudo.out_dir={run}/pseudo_saliency",
        "pseudo.fusion=saliency", *settings,
    ]  # fmt: skip
    cfg = load_config(ROOT / "configs" / "l2g_voc.yaml", overrides)
    with patch("scripts.evaluate_cams._draw"):  # its own plots take longer than all the rest
        evaluate_cams.run(cfg)
    gen_gt.run(cfg)
    write_scalars(run / "tb", "train/cls_global", [0.7, 0.5, 0.4])
    card = StageCard("training", "Training", "scripts.train", cards.TRAINING, f"{run}/model/final.pth", IMAGES, 75)
    card.settings, card.facts = flat_settings(cfg), [("network", "resnet38")]
    write_card(run, card)
    if deeplab:
        write_deeplab(data, run / "deeplab", shift)
    return run


def invented_card(data: Path, run: Path, mean_iou: float) -> StageCard:
    """Write the ground truth as the maps of a stage no program here has; returns its card, to be written or changed."""
    maps = run / "wishes"
    for path in (data / "SegmentationClassAug").iterdir():
        write_png(maps / path.name, np.array(Image.open(path)), palette())
    return StageCard(
        "wish_train", "Wishing well", "elsewhere.wish", cards.CAMS + 1, str(maps), IMAGES, 6.0,
        facts=[("coins", "three")], split="train", maps=str(maps), mean_iou=mean_iou, names=NAMES,
    )  # fmt: skip


def write_deeplab(data: Path, out: Path, shift: int, split: str = "val") -> None:
    """Write predictions of the first images as a split and their cards, without and with CRF."""
    for kind, crf in (("test", ""), ("crf", "_crf")):
        counts = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
        folder = out / f"predictions/exp/net/{split}{crf}"
        for index in range(IMAGES):
            truth = np.array(Image.open(data / f"SegmentationClassAug/img_{index:03d}.png"))
            labels = np.roll(truth, shift // (2 if crf else 1), axis=1)
            write_png(folder / f"img_{index:03d}.png", labels, palette())
            counts += confusion_matrix(truth, labels, CLASSES)
        card = StageCard(
            key=f"deeplab_{kind}_{split}",
            title="DeepLab + CRF" if crf else "DeepLab",
            program=f"deeplab {kind}",
            order=cards.SEGMENTATION_REFINED if crf else cards.SEGMENTATION_TEST,
            output=str(out / f"scores/exp/net/{split}"),
            images=IMAGES,
            settings={"exp.id": "exp", "dataset.root": str(data), "dataset.image_dir": "JPEGImages",
                      "dataset.truth_dir": "SegmentationClassAug", "solver.lr": 2e-4, "seed": 1},
            facts=[("split", split), *([("CRF image", "published"), ("CRF iterations", "10")] if crf else [])],
            split=split,
            maps=str(folder),
            mean_iou=float(score(counts).mean_iou),
            names=NAMES,
            confusion=counts.tolist(),
        )  # fmt: skip
        write_card(out, card, group="exp/net")
    write_scalars(out / "logs/exp", "loss/train", [2.0, 1.0])
    write_scalars(out / "logs/exp", "lr/group_0", [2e-4, 1e-4], file="1")


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

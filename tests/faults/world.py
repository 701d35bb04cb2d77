"""The sound world that programs are put through the mill on: data, downloads, configurations, and finished runs."""

import importlib
import json
import shutil
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from models.method import Method
from tests.deeplab.tiny_deeplab import tiny_deeplab_settings
from tests.faults.mill import ROOT, Program, run
from tests.faults.served import write_served
from tests.official_coco import write_coco
from tests.official_voc import write_sbd, write_voc
from tests.scripts.test_boxes import write_cub
from tests.tiny_data import CLASSES, preset, tiny_settings, write_tiny_voc
from tests.utils.training.test_weights import params_bytes
from utils.data.images import write_png

# What the configuration of a method in the world says beside `tiny_settings`.
COMMON = (
    "threads=1", "model.allow_missing=[]", "cam.checkpoint=${run_dir}/model/final.pth", "cam.pad_size=[]", "cam.labels=list",
    "data.infer_list=${data.train_list}", "data.eval_list=${data.root}/train_aug.txt",
    "data.label_list=${data.root}/train_cls.txt",
    "pseudo.refine=none", "pseudo.out_dir=${run_dir}/labels", "score.label_dir=${pseudo.out_dir}", "crf.iter_max=1",
    "refine.workers=1", "view.workers=1", "score.workers=1", "check.workers=1", "bank.workers=1", "saliency.workers=1",
    "check.cache=${run_dir}/cache.jsonl", "bank.source=labels", "bank.share=[0.01,1.0]", "bank.single_class=false",
    "bank.min_salient=0", "boxes.workers=1", "seeds.workers=1", "instances.workers=1", "instances.steps=10",
    "boundaries.displacements=true",
    "train.schedule=step",  # by which an epoch more changes nothing of those before, that a damaged checkpoint goes back to
)  # fmt: skip
# What a method needs to train on six pictures from random weights, and what it does not do: labels from its maps, or maps.
OWN = {"crt": ("train.lr=0.01",), "irn": ("pseudo.refine=[random_walk]",)}
STAGES = {
    "irn": ("train", "make_boundaries"), "crt_wsol": ("train", "make_cams"), "tscam": ("train", "make_cams")
}  # fmt: skip
ALL_STAGES = ("train", "make_cams", "gen_gt")
SEGMENTATION = (
    "threads=1", "exp.output_dir=seg", "test.save_logits=fp16",
    "train.save_every=2", "solver.poly_power=0",  # a checkpoint before the last one, which more steps change nothing of
)  # fmt: skip
EXPERTS = ("method=cdl_b", "exp.id=experts", "model.msc_scales=[]", "solver.iter_max=2", "thresholds.scales=[0.5]")
MODEL, SALIENCY_MODEL = "net.params", "saliency.onnx"


@cache
def methods() -> dict[str, type[Method]]:
    """Return all methods of `models/` by name."""
    found: dict[str, type[Method]] = {}
    for path in sorted((ROOT / "models").glob("[!_]*.py")):
        for kind in vars(importlib.import_module(f"models.{path.stem}")).values():
            if isinstance(kind, type) and issubclass(kind, Method) and getattr(kind, "name", "") == path.stem:
                found[path.stem] = kind
    return found


def section_of(method: str) -> str:
    """Return the YAML section of a method."""
    return methods()[method].section or method


def build_world(folder: Path, names: Sequence[str]) -> Path:
    """Write data, configurations and finished runs of some methods and of the segmentation stage below `folder`."""
    write_tiny_voc(folder / "data")
    _write_more_data(folder)
    for name in names:
        base = preset(section_of(name))
        settings = [f"method={name}", *tiny_settings(Path(), section_of(name)), *COMMON, *OWN.get(name, ())]
        _write_yaml(folder / f"{name}.yaml", settings, base=str(base))
        own = ("--config", f"{name}.yaml", f"run_dir={name}")
        for stage in (*STAGES.get(name, ALL_STAGES), *(("evaluate_cams",) if name == names[0] else ())):
            _run(folder, f"scripts.{stage}", own)
    settings = [f"dataset.n_classes={CLASSES + 1}", "dataset.labels=data/labels.txt", *tiny_deeplab_settings(Path())]
    _write_yaml(folder / "deeplab.yaml", [*settings, *SEGMENTATION])
    for command in ("train", "test"):
        _run(folder, "deeplab.__main__", (command, "--config-path", "deeplab.yaml"))
    _run(folder, "deeplab.__main__", ("train", "--config-path", "deeplab.yaml", *EXPERTS))
    return folder


def _write_more_data(folder: Path) -> None:
    for path in (folder / "data/SegmentationClassAug").iterdir():
        write_png(folder / "data/pseudo" / path.name, np.roll(np.array(Image.open(path)), 3, axis=1))
    (folder / "data/classes.txt").write_text("red\ngreen\nblue\n")
    (folder / "data/labels.txt").write_text("0\tbackground\n1\tred\n2\tgreen\n3\tblue\n")
    labels = (folder / "data/train_cls.txt").read_text().splitlines()
    (folder / "data/single_cls.txt").write_text("".join(" ".join(line.split()[:2]) + "\n" for line in labels))
    (folder / "data/boxes.txt").write_text("".join(f"img_{n:03d} {n}.5 2 20 15.0\n" for n in range(6)))
    write_voc(folder)
    write_sbd(folder)
    write_coco(folder / "coco")
    write_cub(folder / "CUB_200_2011")
    write_served(folder)
    _write_photos(folder)
    arrays = {f"arg:{name}_weight": np.full((4, 3), 0.5, np.float32) for name in ("conv1a", "res2a_branch1", "linear1000")}
    (folder / MODEL).write_bytes(params_bytes(arrays))
    resnet = {name: torch.ones(4, 3, 3, 3) for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight")}
    torch.save(resnet, folder / "resnet.pth")
    if find_spec("onnx") and find_spec("onnxruntime"):
        from tests.scripts.test_make_saliency import write_model

        write_model(folder / SALIENCY_MODEL)


def _run(folder: Path, module: str, arguments: tuple[str, ...]) -> None:
    ended = run(Program(module, module, arguments), folder, longest=600)  # the first one waits for the server
    if ended.code != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} fails ({ended.code}):\n{ended.err[-3000:]}")


def _write_yaml(path: Path, settings: Sequence[str], **content: Any) -> None:
    for setting in settings:
        name, _, text = setting.partition("=")
        *sections, last = name.split(".")
        inside = content
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = yaml.safe_load(text) if text else ""
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _write_photos(folder: Path) -> None:
    (folder / "photos").mkdir()
    rows = []
    for index, name in enumerate(("a.jpg", "b.jpg", "c.jpg", "d.jpg")):
        shutil.copy(folder / f"data/JPEGImages/img_{index:03d}.jpg", folder / "photos" / name)
        rows.append((name, ["cat", "dog", "cat;dog"][index % 3]))
    (folder / "labels.csv").write_text("file,class\n" + "".join(f"{name},{classes}\n" for name, classes in rows))
    (folder / "labels.json").write_text(json.dumps({name: classes.split(";") for name, classes in rows}))

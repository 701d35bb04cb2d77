"""Who goes through the mill: every program, and every method of `models/` through those that build its networks.

A later method needs no line here: it is found by its file. A later program needs an entry: its command line on the tiny world,
the files it reads with their kinds (`tests.faults.files.DAMAGES`), and what it writes.
"""

import importlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from models.method import Method
from tests.deeplab.tiny_deeplab import tiny_deeplab_settings
from tests.faults.mill import REFUSED, ROOT, Program, run
from tests.official_coco import write_coco
from tests.official_voc import write_sbd, write_voc
from tests.tiny_data import CLASSES, preset, tiny_settings, write_tiny_voc
from utils.data.images import write_png

IMAGE = "data/JPEGImages/img_001.jpg"
SALIENCY = "data/Sal/img_001.png"
TRUTH = "data/SegmentationClassAug/img_001.png"
LABELS, PAIRS = "data/train_cls.txt", "data/train_aug.txt"
# What the configuration of a method in the world says beside `tiny_settings`.
COMMON = (
    "threads=1", "model.allow_missing=[]", "cam.checkpoint=${run_dir}/model/final.pth", "cam.pad_size=[]", "cam.labels=list",
    "data.infer_list=${data.train_list}", "data.eval_list=${data.root}/train_aug.txt", "data.label_list=${data.train_list}",
    "pseudo.refine=none", "pseudo.out_dir=${run_dir}/labels", "score.label_dir=${pseudo.out_dir}", "crf.iter_max=1",
    "refine.workers=1", "view.workers=1", "score.workers=1", "check.workers=1", "bank.workers=1", "saliency.workers=1",
    "check.cache=${run_dir}/cache.jsonl", "bank.source=labels", "bank.share=[0.01,1.0]", "bank.single_class=false",
    "bank.min_salient=0",
)  # fmt: skip
# What a method needs to train on six pictures from random weights, and what it does not do: labels from its maps, or maps.
OWN = {"crt": ("train.lr=0.01",), "irn": ("pseudo.refine=[random_walk]",)}
# What a run starts from, where that is not the weights of one network.
STARTS = {"crt": "last.pth", "crt_wsol": "last.pth"}
STAGES = {"irn": ("train",), "crt_wsol": ("train", "make_cams"), "tscam": ("train", "make_cams")}
ALL_STAGES = ("train", "make_cams", "gen_gt")
SEGMENTATION = ("threads=1", "exp.output_dir=seg", "test.save_logits=fp16")
SEGMENTATION_WEIGHTS = "seg/models/tiny/deeplabv2_backbone_msc/train_aug/checkpoint_final.pth"
LAST = "seg/models/tiny/deeplabv2_backbone_msc/train_aug/last.pth"


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
    for path in (folder / "data/SegmentationClassAug").iterdir():
        write_png(folder / "data/pseudo" / path.name, np.roll(np.array(Image.open(path)), 3, axis=1))
    (folder / "data/classes.txt").write_text("red\ngreen\nblue\n")
    for name in names:
        base = preset(section_of(name))
        settings = [f"method={name}", *tiny_settings(Path(), section_of(name)), *COMMON, *OWN.get(name, ())]
        _write_yaml(folder / f"{name}.yaml", settings, base=str(base))
        own = ("--config", f"{name}.yaml", f"run_dir={name}")
        for stage in (*STAGES.get(name, ALL_STAGES), *(("evaluate_cams",) if name == names[0] else ())):
            _run(folder, f"scripts.{stage}", own)
    settings = [f"dataset.n_classes={CLASSES + 1}", "dataset.labels=data/labels.txt", *tiny_deeplab_settings(Path())]
    (folder / "data/labels.txt").write_text("0\tbackground\n1\tred\n2\tgreen\n3\tblue\n")
    _write_yaml(folder / "deeplab.yaml", [*settings, *SEGMENTATION])
    for command in ("train", "test"):
        _run(folder, "deeplab.__main__", (command, "--config-path", "deeplab.yaml"))
    write_voc(folder)
    write_sbd(folder)
    write_coco(folder / "coco")
    _write_photos(folder)
    return folder


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


def _first(world: Path, pattern: str) -> str:
    return str(min(world.glob(pattern)).relative_to(world))


def programs(world: Path, names: Sequence[str]) -> list[Program]:
    """Return all programs on a world that was built with these methods."""
    return [program for name in names for program in of_method(world, name)] + tools(world, names[0]) + segmentation(world)


def of_method(world: Path, name: str) -> list[Program]:
    """Return what a method's networks run in, and what reads its maps."""
    config, cams, section = f"{name}.yaml", f"{name}/ms/attention", section_of(name)
    out, stages = ("--config", config, "run_dir=out"), STAGES.get(name, ALL_STAGES)
    on_maps = (*out, f"cam.dir={cams}")
    weights = {f"{name}/model/final.pth": "weights"}
    lists = {LABELS: "labels", IMAGE: "picture"}
    start = f"{name}/model/{STARTS.get(name, 'final.pth')}"
    saliency = {SALIENCY: "grey"} if section == "l2g" else {}
    found = [
        Program(
            f"train {name}", "scripts.train", (*out, f"train.init_from={start}"),
            {config: "yaml", **lists, **saliency, start: "networks" if name in STARTS else "weights"}, rerun=REFUSED, again=("train.resume=auto",),
            settings=("", "data", "model", "train", "validation", section),
        ),
        Program(
            f"resume {name}", "scripts.train", ("--config", config, f"run_dir={name}", "train.epochs=3", "train.resume=auto"),
            {f"{name}/model/last.pth": "checkpoint"}, writes=(name,),
        ),
    ]  # fmt: skip
    if "make_cams" in stages:
        found += [
            Program(
                f"make_cams {name}", "scripts.make_cams", (*out, f"cam.checkpoint={name}/model/final.pth"),
                {**lists, **weights}, settings=("cam",),
            )
        ]  # fmt: skip
    if section == "irn":
        found += [
            Program(
                f"make_boundaries {name}", "scripts.make_boundaries", (*out, f"boundaries.checkpoint={name}/model/final.pth"),
                {**weights, IMAGE: "picture"}, settings=("boundaries",),
            )
        ]  # fmt: skip
    if "gen_gt" not in stages:
        return found
    one = _first(world, f"{cams}/img_001*")
    maps = {one: one.rpartition(".")[2], PAIRS: "pairs", LABELS: "labels"}
    found += [
        Program(f"gen_gt {name}", "scripts.gen_gt", on_maps, {**maps, TRUTH: "truth"}, settings=("pseudo",)),
        Program(
            f"refine_cams {name}", "scripts.refine_cams", on_maps, {**maps, IMAGE: "picture"},
            settings=("refine", "crf"),
        ),
        Program(
            f"make_seeds {name}", "scripts.make_seeds", (*on_maps, "seeds.workers=1"), {one: maps[one], LABELS: "labels", IMAGE: "picture"},
            settings=("seeds",),
        ),
        Program(
            f"evaluate_boxes {name}", "scripts.evaluate_boxes", (*on_maps, "boxes.workers=1"), {**maps, TRUTH: "mask"},
            settings=("boxes",),
        ),
    ]  # fmt: skip
    if one.endswith(".png"):
        found += [
            Program(
                f"evaluate_cams {name}", "scripts.evaluate_cams", on_maps, {**maps, TRUTH: "mask"},
                settings=("eval",),
            ),
            Program(
                f"visualize_cams {name}", "scripts.visualize_cams", (*on_maps, "view.overview=1"),
                {one: "png", _image_of(one): "picture"}, settings=("view",),
            ),
        ]  # fmt: skip
    return found


def _image_of(cam: str) -> str:
    return f"data/JPEGImages/{Path(cam).stem.rpartition('_')[0]}.jpg"


def tools(world: Path, name: str) -> list[Program]:
    """Return the programs that need no network, on the results of a method."""
    out = ("--config", f"{name}.yaml", "run_dir=out")
    label, card = f"{name}/labels/img_001.png", _first(world, f"{name}/cards/*.json")
    source, target = ("--voc", "VOCdevkit/VOC2012", "--sbd", "benchmark_RELEASE"), ("--out", "out", "--workers", "1")
    custom = ("--images", "photos", "--config", "out/mine.yaml", *target)
    return [
        Program(
            "evaluate_labels", "scripts.evaluate_labels", (*out, f"score.label_dir={name}/labels"),
            {label: "mask", TRUTH: "mask", PAIRS: "pairs"}, settings=("score",),
        ),
        Program(
            "make_foreground_bank", "scripts.make_foreground_bank", (*out, "bank.label_dir=data/pseudo"),
            {"data/pseudo/img_001.png": "mask", IMAGE: "picture", SALIENCY: "grey", PAIRS: "pairs"},
            settings=("bank",),
        ),
        Program(
            "check_data", "scripts.check_data", out,
            {LABELS: "labels", PAIRS: "pairs", IMAGE: "picture", SALIENCY: "grey", TRUTH: "mask"},
            settings=("check",), reports=True,
        ),
        Program(
            "report", "scripts.report", ("--run", name, "--deeplab", "seg", "--out", "out", "--workers", "1", "--images", "2"),
            {card: "card"}, writes=("out", f"{name}/tb"),
        ),
        Program("compare", "scripts.compare", (f"a={name}", "--out", "out/table.md"), {card: "card"}),
        Program(
            "convert_weights", "scripts.convert_weights", (f"{name}/model/final.pth", "out/weights.safetensors"),
            {f"{name}/model/final.pth": "file"},
        ),
        Program(
            "prepare_voc", "scripts.prepare_voc", (*source, *target),
            {"VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt": "text",
             "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png": "mask",
             "benchmark_RELEASE/dataset/cls/2008_000002.mat": "file"},
        ),
        Program(
            "prepare_voc, xml", "scripts.prepare_voc", (*source, "--labels", "xml", *target),
            {"VOCdevkit/VOC2012/Annotations/2007_000032.xml": "file"},
        ),
        Program(
            "prepare_coco", "scripts.prepare_coco", ("--coco", "coco", *target),
            {"coco/annotations/instances_train2014.json": "json", "coco/train2014/COCO_train2014_000000000010.jpg": "linked"},
        ),
        Program(
            "prepare_custom", "scripts.prepare_custom", ("--labels", "labels.csv", *custom),
            {"labels.csv": "csv", "photos/b.jpg": "picture"},
        ),
        Program(
            "prepare_custom, json", "scripts.prepare_custom", ("--labels", "labels.json", *custom), {"labels.json": "json"}
        ),
        Program("make_demo_data", "scripts.make_demo_data", (*target, "--train", "2", "--val", "1", "--size", "48")),
    ]  # fmt: skip


def segmentation(world: Path) -> list[Program]:
    """Return the programs of the segmentation stage."""
    config, module = ("--config-path", "deeplab.yaml"), "deeplab.__main__"
    data = {"deeplab.yaml": "yaml", PAIRS: "pairs", IMAGE: "picture"}
    out = (*config, "exp.output_dir=out")
    weights = ("--model-path", SEGMENTATION_WEIGHTS)
    logits = _first(world, "seg/features/**/img_001.npz")
    return [
        Program(
            "deeplab train", module, ("train", *out), {**data, "data/pseudo/img_001.png": "mask"}, rerun=REFUSED,
            again=("train.resume=auto",), settings=("", "dataset", "image", "model", "solver", "train"),
        ),
        Program(
            "deeplab resume", module, ("train", *config, "solver.iter_max=8", "train.resume=auto"), {LAST: "checkpoint"},
            writes=("seg",),
        ),
        Program(
            "deeplab test", module, ("test", *out, *weights),
            {**data, SEGMENTATION_WEIGHTS: "weights", TRUTH: "mask"}, settings=("test",),
        ),
        Program("deeplab crf", module, ("crf", *config), {**data, logits: "logits", TRUTH: "mask"}, writes=("seg",)),
        Program(
            "deeplab demo", module, ("demo", *config, *weights, "--image-path", IMAGE, "--out", "out"),
            {IMAGE: "picture", SEGMENTATION_WEIGHTS: "weights"},
        ),
    ]  # fmt: skip


def main() -> None:
    """Build a world, run all programs on it, and print how they end (to see that they are sound)."""
    from tests.faults.mill import Mill

    world = Path(tempfile.mkdtemp(prefix="world_"))
    names = ["l2g", *(name for name in methods() if name != "l2g")]
    build_world(world, names)
    print(world)
    mill = Mill(world)
    for program in programs(world, names):
        print(program.name, len(mill.sound(program)))


if __name__ == "__main__":
    main()

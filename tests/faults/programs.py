"""Who goes through the mill: every program, and every method of `models/` through those that build its networks.

A later method needs no line here: it is found by its file. A later program needs an entry: its command line on the tiny world,
the files it reads with their kinds (`tests.faults.files.DAMAGES`), and what it writes.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.mill import REFUSED, Mill, Program
from tests.faults.served import FILE, SERVED
from tests.faults.world import (
    ALL_STAGES,
    EXPERTS,
    MODEL,
    SALIENCY_MODEL,
    STAGES,
    build_world,
    methods,
    section_of,
)

IMAGE = "data/JPEGImages/img_001.jpg"
SALIENCY = "data/Sal/img_001.png"
TRUTH = "data/SegmentationClassAug/img_001.png"
PSEUDO = "data/pseudo/img_001.png"
LABELS, PAIRS, BOXES = "data/train_cls.txt", "data/train_aug.txt", "data/boxes.txt"
SEGMENTATION_WEIGHTS = "seg/models/tiny/deeplabv2_backbone_msc/train_aug/checkpoint_final.pth"
LAST = "seg/models/tiny/deeplabv2_backbone_msc/train_aug/last.pth"
# What a run starts from, where that is not the weights of one network.
STARTS = {"crt": "last.pth", "crt_wsol": "last.pth"}


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
    lists = {PAIRS: "pairs", TRUTH: "mask"} if section == "irn" else {LABELS: "labels"}
    lists[IMAGE] = "picture"
    start = f"{name}/model/{STARTS.get(name, 'final.pth')}"
    saliency = {SALIENCY: "grey"} if section == "l2g" else {}
    found = [
        Program(
            f"train {name}", "scripts.train", (*out, f"train.init_from={start}"),
            {config: "yaml", **lists, **saliency, start: "networks" if name in STARTS else "weights"},
            rerun=REFUSED, again=("train.resume=auto",),
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
    if "make_boundaries" in stages:
        found += _with_boundaries(world, name, weights)
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
            f"make_seeds {name}", "scripts.make_seeds", on_maps, {one: maps[one], LABELS: "labels", IMAGE: "picture"},
            settings=("seeds",),
        ),
        Program(
            f"evaluate_boxes {name}", "scripts.evaluate_boxes", on_maps, {**maps, TRUTH: "mask"},
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


def _with_boundaries(world: Path, name: str, weights: dict[str, str]) -> list[Program]:
    """Return what learns boundaries from CAMs of another method, and what walks along them."""
    out, boundary = ("--config", f"{name}.yaml", "run_dir=out"), f"{name}/boundaries/img_001.npz"
    found = [
        Program(
            f"make_boundaries {name}", "scripts.make_boundaries", (*out, f"boundaries.checkpoint={name}/model/final.pth"),
            {**weights, IMAGE: "picture"}, settings=("boundaries",),
        )
    ]  # fmt: skip
    for cams in sorted(path.relative_to(world) for path in world.glob("*/ms/attention"))[:1]:
        walked = (*out, f"cam.dir={cams}", f"random_walk.boundary_dir={name}/boundaries")
        one = _first(world, f"{cams}/img_001*")
        reads = {boundary: "npz", one: one.rpartition(".")[2]}
        found += [
            Program(f"gen_gt {name}", "scripts.gen_gt", (*walked, "pseudo.refine=[random_walk]"), reads),
            Program(f"make_instances {name}", "scripts.make_instances", walked, reads, settings=("instances",)),
        ]
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
            {PSEUDO: "mask", IMAGE: "picture", SALIENCY: "grey", PAIRS: "pairs"},
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
        Program("convert_weights, MXNet", "scripts.convert_weights", (MODEL, "out/weights.pth"), {MODEL: "unsummed"}),
        Program("download", "tests.faults.served", ("archive", "--to", "out"), {f"{SERVED}/{FILE}": "file"}),
        Program(
            "evaluate_boxes, list", "scripts.evaluate_boxes",
            (*out, f"cam.dir={name}/ms/attention", f"boxes.file={BOXES}", "data.label_list=data/single_cls.txt"),
            {BOXES: "list"},
        ),
        Program(
            f"train {name}, loaders", "scripts.train", (*out, "data.workers=2"), {IMAGE: "picture"}, rerun=REFUSED,
            again=("train.resume=auto",),
        ),
        *(
            Program(
                "make_saliency", "scripts.make_saliency",
                (*out, f"saliency.model={SALIENCY_MODEL}", "saliency.out_dir=out/sal"),
                {SALIENCY_MODEL: "unsummed", IMAGE: "picture"}, settings=("saliency",),
            )
            for _ in world.glob(SALIENCY_MODEL)
        ),
        Program(
            "prepare_cub", "scripts.prepare_cub", ("--cub", "CUB_200_2011", *target),
            {"CUB_200_2011/images.txt": "text", "CUB_200_2011/bounding_boxes.txt": "text",
             "CUB_200_2011/images/002.Auk/Auk_0001_2.jpg": "linked"},
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
    experts = _first(world, "seg/models/experts/**/checkpoint_final.pth")
    logits = _first(world, "seg/features/**/img_001.npz")
    return [
        Program(
            "deeplab train", module, ("train", *out), {**data, PSEUDO: "mask"}, rerun=REFUSED,
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
            "deeplab crf, labels", module,
            ("crf", *out, *weights, "test.unlabelled=true", "dataset.split.test=train_aug", "dataset.val_list=",
             f"test.class_filter={LABELS}", "test.ignore_below=0.3", "test.fill_from=data/pseudo", "test.out_dir=out/labels",
             "test.name=round1"),
            {LABELS: "labels", PSEUDO: "mask"},
        ),
        Program(
            "deeplab train, experts", module, ("train", *out, *EXPERTS), {PSEUDO: "mask"}, rerun=REFUSED,
            again=("train.resume=auto",), settings=("thresholds", "cdl"),
        ),
        Program(
            "deeplab refresh", module, ("refresh", *out, *EXPERTS, "--model-path", experts),
            {experts: "weights", PSEUDO: "mask"},
        ),
        Program("deeplab convert", module, ("convert", "resnet.pth", "out/weights.pth"), {"resnet.pth": "file"}),
        Program(
            "deeplab demo", module, ("demo", *config, *weights, "--image-path", IMAGE, "--out", "out"),
            {IMAGE: "picture", SEGMENTATION_WEIGHTS: "weights"},
        ),
    ]  # fmt: skip


def main() -> None:
    """Build a world, run all programs on it, and print how they end (to see that they are sound)."""
    world = Path(tempfile.mkdtemp(prefix="world_"))
    names = ["l2g", *(name for name in methods() if name != "l2g")]
    build_world(world, names)
    print(world)
    mill = Mill(world)
    for program in programs(world, names):
        print(program.name, len(mill.sound(program)))


if __name__ == "__main__":
    main()

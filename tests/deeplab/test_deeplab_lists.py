"""Published configuration files, lists of all published forms, class names, the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.deeplab_schema import DatasetConfig, DeepLabConfig
from deeplab.__main__ import main, translate
from deeplab.demo import Demo
from deeplab.network import build_deeplab
from tests.deeplab.tiny_deeplab import tiny_deeplab
from utils.config import load_schema
from utils.data.classes import class_names
from utils.data.items import evaluation_items, find_list, training_items
from utils.errors import UserError
from utils.runtime.processes import Dist

CONFIGS = Path(__file__).parents[2] / "configs"
# A file with the published keys and values (L2G, COCO), written out from its description.
PUBLISHED = """
EXP:
    ID: coco_resnet
    OUTPUT_DIR: data
DATASET:
    NAME: coco
    ROOT: ./../data/coco14/
    LABELS: ./data/datasets/coco/labels.txt
    N_CLASSES: 81
    IGNORE_LABEL: 255
    SCALES: [0.5, 0.75, 1.0, 1.25, 1.5]
    SPLIT:
        TRAIN: train
        VAL: val
        TEST:
DATALOADER:
    NUM_WORKERS: 0
IMAGE:
    MEAN:
        R: 122.675
        G: 116.669
        B: 104.008
    SIZE:
        BASE:
        TRAIN: 321
        TEST: 513
MODEL:
    NAME: DeepLabV2_ResNet101_MSC
    N_BLOCKS: [3, 4, 23, 3]
    ATROUS_RATES: [6, 12, 18, 24]
    INIT_MODEL: ./pretrained/deeplabv1_resnet101-imagenet.pth
SOLVER:
    BATCH_SIZE:
        TRAIN: 20
        TEST: 1
    ITER_MAX: 50000
    ITER_SIZE: 1
    ITER_SAVE: 5000
    ITER_TB: 100
    LR_DECAY: 10
    LR: 2.5e-4
    MOMENTUM: 0.9
    OPTIMIZER: sgd
    POLY_POWER: 0.9
    WEIGHT_DECAY: 5.0e-4
    AVERAGE_LOSS: 20
CRF:
    ITER_MAX: 10
    POS_W: 3
    POS_XY_STD: 1
    BI_W: 4
    BI_XY_STD: 67
    BI_RGB_STD: 3
"""


def test_published_files_load_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "coco.yaml"
    path.write_text(PUBLISHED)
    cfg = load_schema(path, [], DeepLabConfig)
    assert (cfg.solver.batch_size.train, cfg.solver.lr, cfg.dataset.split.train) == (20, 2.5e-4, "train")
    assert (cfg.precision, cfg.crf.image) == ("fp32", "published")  # which these files have no keys for
    assert len(class_names(cfg.dataset)) == 81


SEGMENTATION = sorted(
    {*CONFIGS.glob("*_dplv*.yaml"), *CONFIGS.glob("*train.yaml"), *CONFIGS.glob("*cdl*.yaml"), CONFIGS / "coco.yaml"}
)


@pytest.mark.parametrize("path", SEGMENTATION, ids=lambda path: path.stem)
def test_shipped_files_describe_networks(path: Path) -> None:
    cfg = load_schema(path, [], DeepLabConfig)
    with torch.device("meta"):
        build_deeplab(cfg)
    if not cfg.dataset.labels or Path(cfg.dataset.labels).is_file():  # the demo's list is made by the demo
        assert len(class_names(cfg.dataset)) == cfg.dataset.n_classes
    assert cfg.dataset.label_dir


# What CDL's published files have beside DeepLab's keys: file -> (batch, mini-batches a step, steps, crop, section THRESHOLDS).
CDL = {
    "voc12_coco_predtrain": (4, 2, 20000, 321, "IMAGENET_INIT: false", [0.5, 0.75]),
    "voc12_imageNet_predtrain": (8, 2, 30000, 321, "IMAGENET_INIT: true", [0.5, 0.75, 1.25, 1.5, 1.75, 2.0]),
    "coco": (10, 1, 100000, 481, "IMAGENET_INIT: true", [0.5, 0.75, 1.25, 1.5]),
}


@pytest.mark.parametrize("name", CDL)
def test_published_files_of_cdl_load_and_are_the_shipped_ones(tmp_path: Path, name: str) -> None:
    batch, iter_size, steps, crop, imagenet, scales = CDL[name]
    (tmp_path / "a.yaml").write_text(
        PUBLISHED.replace("TRAIN: 20\n", f"TRAIN: {batch}\n")
        .replace("ITER_SIZE: 1", f"ITER_SIZE: {iter_size}")
        .replace("ITER_MAX: 50000", f"ITER_MAX: {steps}")
        .replace("TRAIN: 321", f"TRAIN: {crop}")
        + "THRESHOLDS:\n    MAIN_TH: 0.9\n    AUX_TH: 0.9\n    AFF_LOSS_WEIGHT: 0.4\n    LOSS_WEIGHT_1ST: 0.2\n"
        f"    LOSS_WEIGHT_2ND: 0.2\n    LOSS_WEIGHT_3RD: 0.2\n    START_RATION: 0.1\n    {imagenet}\n    SCALES: {scales}\n"
    )
    theirs = load_schema(tmp_path / "a.yaml", ["method=cdl_b"], DeepLabConfig)
    for shipped in (name, name.replace("predtrain", "pretrain"), *(["coco_cdl"] if name == "coco" else [])):
        ours = load_schema(CONFIGS / f"{shipped}.yaml", [], DeepLabConfig)
        assert (theirs.thresholds, theirs.cdl, theirs.method) == (ours.thresholds, ours.cdl, ours.method)
        assert (theirs.solver.iter_max, theirs.solver.iter_size) == (ours.solver.iter_max, ours.solver.iter_size)
        assert (theirs.solver.batch_size, theirs.image.size) == (ours.solver.batch_size, ours.image.size)
        assert ours.exp.id != load_schema(CONFIGS / f"{shipped}.yaml", ["method=cdl_e"], DeepLabConfig).exp.id


# The published file of a network that was only converted: most of it is empty.
SKELETON = """
EXP:
    ID: coco
    OUTPUT_DIR: data
DATASET:
    NAME: coco
    ROOT:
    LABELS: ./data/datasets/coco/labels.txt
    N_CLASSES: 91
    IGNORE_LABEL:
    SCALES:
    SPLIT:
        TRAIN:
        VAL:
        TEST:
DATALOADER:
    NUM_WORKERS: 0
IMAGE:
    SIZE:
        BASE:
        TRAIN:
        TEST: 513
MODEL:
    NAME: DeepLabV1_ResNet101
    N_BLOCKS: [3, 4, 23, 3]
    ATROUS_RATES:
    INIT_MODEL:
SOLVER:
    BATCH_SIZE:
        TRAIN:
        TEST: 1
    ITER_MAX:
    LR:
    OPTIMIZER:
CRF:
"""


def test_published_skeletons_load_and_say_what_they_leave_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "coco.yaml"
    path.write_text(SKELETON)
    cfg = load_schema(path, ["solver.lr=0.1"], DeepLabConfig)
    assert (cfg.dataset.n_classes, cfg.image.size.base, cfg.image.size.train, cfg.solver.lr) == (91, None, 321, 0.1)
    assert (cfg.dataset.split.test, cfg.crf.image) == (None, "published")
    told = capsys.readouterr().err
    assert str(path) in told
    assert "dataset.root, dataset.ignore_label, dataset.scales, dataset.split.train" in told
    assert "image.size.base" not in told  # there null says something
    load_schema(CONFIGS / "voc12_resnet_dplv2.yaml", [], DeepLabConfig)
    assert capsys.readouterr().err == ""


def test_mistyped_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(PUBLISHED.replace("ITER_SIZE", "ITERSIZE"))
    with pytest.raises(UserError, match=r"solver\.itersize"):
        load_schema(path, [], DeepLabConfig)


@pytest.mark.parametrize("place", ["val.txt", "ImageSets/SegmentationAug/val.txt", "ImageSets/Segmentation/val.txt"])
def test_lists_are_found_where_published_programs_have_them(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("2007_000033\r\n2007_000042\n")
    dataset = DatasetConfig(root=str(tmp_path))
    items = evaluation_items(dataset)
    assert [item.image_id for item in items] == ["2007_000033", "2007_000042"]
    assert items[0].labels == tmp_path / "SegmentationClassAug" / "2007_000033.png"
    dataset.split.val = "val_aug"  # published files name it, published programs refuse it
    assert find_list(dataset, "", "val_aug") == path


def test_published_programs_look_in_their_working_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their list of training images names pseudo labels, where the one beside the images names ground truth."""
    monkeypatch.chdir(tmp_path)
    dataset = DatasetConfig(root="there")
    published = tmp_path / "data" / "datasets" / "voc12"
    for folder, labels in ((tmp_path / "there", "SegmentationClassAug"), (published, "pseudo_seg_labels")):
        folder.mkdir(parents=True)
        (folder / "train_aug.txt").write_text(f"/JPEGImages/a.jpg /{labels}/a.png\n")
    items, folders = training_items(dataset, fully_supervised=False)
    assert (items[0].image, folders) == (Path("there/JPEGImages/a.jpg"), [Path("there/pseudo_seg_labels")])
    dataset.name = "mine"
    assert find_list(dataset, "", "train_aug") == Path("there/train_aug.txt")
    dataset.name = "coco"
    with pytest.raises(UserError, match=r"looked for data/datasets/coco/train\.txt, there/train\.txt"):
        find_list(dataset, "", "train")


@pytest.mark.parametrize("name", ["cocostuff10k", "cocostuff164k"])
def test_coco_stuff_says_what_it_needs(tmp_path: Path, name: str) -> None:
    dataset = DatasetConfig(name=name, root=str(tmp_path), n_classes=182)
    with pytest.raises(UserError, match=r"COCO-Stuff is not read as it comes .*set dataset\.train_list"):
        training_items(dataset, fully_supervised=False)
    dataset.train_list = str(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("/images/train2017/000000000009.jpg /annotations/train2017/000000000009.png\n")
    assert training_items(dataset, fully_supervised=True)[1] == [tmp_path / "annotations" / "train2017"]


def test_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = DatasetConfig(root=str(tmp_path), train_list=str(tmp_path / "l.txt"))
    cases = {
        "/JPEGImages/a.jpg /pseudo/b.png": "different images",
        "/JPEGImages/a.jpg /p/a.png x": "3 entries",
        "/JPEGImages/../../a.jpg": "leaves the data folder",
        "/J/a.jpg /p/a.png\n/J/a.jpg /p/a.png": "twice",
        "/JPEGImages/a.jpg": r"dataset\.label_dir",
    }
    for text, message in cases.items():
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            training_items(dataset, fully_supervised=False)


def test_class_names_come_from_lists_of_any_published_form(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("0\tbackground\n1\tcat,kitty\n2\tdog\n")
    dataset = DatasetConfig(name="mine", n_classes=3, labels=str(path))
    assert class_names(dataset) == ["background", "cat", "dog"]
    path.write_text("cat\ndog\n")
    assert class_names(dataset) == ["background", "cat", "dog"]
    dataset.n_classes = 5
    with pytest.raises(UserError, match="holds 2 names, expected 5"):
        class_names(dataset)


def test_the_command_line_takes_published_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert translate(["-c", "x.yaml", "--cpu", "-j", "3", "a=b"]) == ["-c", "x.yaml", "a=b", "device=cpu", "crf.workers=3"]
    with pytest.raises(UserError, match="unknown command 'fly'"):
        main(["fly"])
    main(["--help"])
    assert "convert" in capsys.readouterr().out
    for command in ("train", "test", "crf", "demo"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "solver.iter_max" in capsys.readouterr().out


def test_the_demo_draws_a_folder_and_a_video(tmp_path: Path) -> None:
    import cv2

    cfg = tiny_deeplab(tmp_path)
    torch.manual_seed(0)
    torch.save(build_deeplab(cfg).state_dict(), tmp_path / "w.pth")
    settings = [
        *(f"{key}={value}" for key, value in (("dataset.n_classes", 4), ("device", "cpu"), ("image.size.test", 64))),
        "model.name=DeepLabV2_Backbone_MSC", "model.backbone=resnet38", "model.width=0.0625", "model.msc_scales=[0.75]",
        "model.atrous_rates=[1,2]", "crf.iter_max=1",
    ]  # fmt: skip
    refiner = Demo(cfg, tmp_path / "w.pth", Dist(0, 1, 0, torch.device("cpu")), crf=True).refiner
    assert (cfg.crf.image, refiner and refiner.settings()["image"]) == ("published", "true")  # as published of either
    common = ["demo", "-c", str(tmp_path / "deeplab.yaml"), "-m", str(tmp_path / "w.pth"), *settings]
    main([*common, "--image-path", str(tmp_path / "data" / "JPEGImages"), "--out", str(tmp_path / "o"), "--crf"])
    with Image.open(tmp_path / "o" / "img_000.png") as overlay, Image.open(tmp_path / "o" / "img_000_labels.png") as labels:
        assert labels.size == (64, 53)
        assert overlay.width == 64
        assert overlay.height >= 53
        assert labels.mode == "P"
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))  # type: ignore[attr-defined]
    for level in (10, 120, 240):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    main([*common, "--camera-id", str(tmp_path / "v.avi"), "--out", str(tmp_path / "v"), "--frames", "2"])
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["frame_0000.png", "frame_0001.png"]
    with pytest.raises(UserError, match="gives no picture"):
        main([*common, "--camera-id", str(tmp_path / "none.avi")])
    with pytest.raises(UserError, match="holds no pictures"):
        (tmp_path / "empty").mkdir()
        main([*common, "--image-path", str(tmp_path / "empty")])

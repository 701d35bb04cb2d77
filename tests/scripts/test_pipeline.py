"""The whole first stage at a tiny size: data, training, CAMs, sweep, labels, pictures, table."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.deeplab_schema import DeepLabConfig
from deeplab import crf, train
from deeplab import predict as test
from deeplab.settings import parse_args as parse_segmentation
from models.backbones.resnet import BLOCKS, dilated_resnet
from scripts import compare, evaluate_cams, gen_gt, make_cams, make_demo_data
from scripts import train as train_l2g
from scripts.build import load_config, parse_args
from tests.tiny_data import write_tiny_voc
from utils.config import load_schema

ROOT = Path(__file__).parents[2]


def test_demo_pipeline(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    make_demo_data.main(["--out", str(data), "--train", "6", "--val", "2", "--size", "64", "--workers", "1"])
    settings = [
        f"run_dir={tmp_path / 'run'}",
        f"data.root={data}",
        f"data.class_names={data / 'classes.txt'}",
        "train.epochs=2",
        "train.classify_epochs=1",
        "train.batch_size=3",
        "train.images_every=1",
        "model.width=0.0625",
        "l2g.input_size=48",
        "l2g.crop_size=32",
        "l2g.short_side=48",
        "cam.scales=[1.0]",
    ]
    for fusion in ("threshold", "saliency"):
        extra = [f"pseudo.fusion={fusion}", f"pseudo.out_dir={tmp_path / 'run' / f'pseudo_{fusion}'}"]
        cfg = load_config(ROOT / "configs" / "l2g_demo.yaml", settings + extra)
        if fusion == "threshold":
            assert train_l2g.run(cfg) == 0
            make_cams.run(cfg)
            evaluate_cams.run(cfg)
        gen_gt.run(cfg)
        labels = sorted((tmp_path / "run" / f"pseudo_{fusion}").glob("*.png"))
        assert len(labels) == 6
        values = set(np.unique(np.array(Image.open(labels[0]))))
        assert values <= {*range(cfg.data.num_classes + 1), 255}
    run = tmp_path / "run"
    segment = [
        f"exp.output_dir={run / 'deeplab'}",
        f"dataset.root={data}",
        f"dataset.labels={data / 'classes.txt'}",
        f"dataset.label_dir={run / 'pseudo_saliency'}",
        f"model.init_model={run / 'model' / 'final.pth'}",
        "model.width=0.0625",
        "image.size.train=49",
        "solver.iter_max=2",
        "solver.batch_size.train=4",
        "threads=1",
        "crf.workers=1",
    ]
    stage = load_schema(ROOT / "configs" / "demo_dplv2.yaml", segment, DeepLabConfig)
    assert train.run(stage) == 0
    assert 0 < test.run(stage)["Pixel Accuracy"] < 1
    assert 0 < crf.run(stage)["Pixel Accuracy"] < 1
    table = compare.run([f"tiny={tmp_path / 'run'}"])
    for column in ("CAM", "Pseudo labels, threshold", "Pseudo labels, saliency", "DeepLab", "DeepLab + CRF"):
        assert f"| {column} mIoU (train) |" in table
    assert "training, minutes" in table


def test_resnet101_as_cam_network_from_its_librarys_file_to_a_segmentation_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage, with fewer blocks: its real file loads in tests/scripts/test_build.py."""
    monkeypatch.setitem(BLOCKS, 101, (1, 1, 2, 1))
    root, run = write_tiny_voc(tmp_path / "data", images=4), tmp_path / "run"
    weights = tmp_path / "resnet101.pth"
    torch.save(
        {**dilated_resnet(101).state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, weights
    )
    settings = [
        f"run_dir={run}", f"data.root={root}", "data.num_classes=3", "data.class_names=[a,b,c]", "data.workers=0",
        f"model.pretrained={weights}", "model.checkpoint_activations=true", "train.epochs=1", "train.batch_size=2",
        "train.images_every=0", "l2g.input_size=32", "l2g.crop_size=24", "l2g.patches=4", "l2g.short_side=40",
        "cam.scales=[1.0]", "eval.workers=1", "pseudo.workers=1", f"pseudo.out_dir={run / 'labels'}",
    ]  # fmt: skip
    cfg = load_config(ROOT / "configs" / "l2g_voc_resnet101.yaml", settings)
    assert train_l2g.run(cfg) == 0
    make_cams.run(cfg)
    assert evaluate_cams.run(cfg)
    assert gen_gt.run(cfg)["images"] == 4
    segment = [
        f"exp.output_dir={run / 'deeplab'}", f"dataset.root={root}", "dataset.n_classes=4", f"dataset.label_dir={run}/labels",
        f"dataset.val_list={root / 'train_aug.txt'}", f"model.init_model={run / 'model' / 'final.pth'}", "model.msc_scales=[]",
        "model.name=DeepLabV2_Backbone_MSC", "model.backbone=resnet101", "image.size.train=33", "solver.iter_max=1",
        "solver.batch_size.train=2", "threads=1", "test.save_logits=none", "dataloader.num_workers=0",
    ]  # fmt: skip
    stage = load_schema(ROOT / "configs" / "voc12_resnet_dplv2.yaml", segment, DeepLabConfig)
    assert train.run(stage) == 0
    assert 0 <= test.run(stage)["Pixel Accuracy"] <= 1


def test_front_doors_print_help_and_refuse_typos(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "EXP": "none"}
    for script in ("train_l2g_sal_voc.sh", "gen_gt_coco.sh"):
        shown = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True, env=environment, check=True)
        assert "train.lr (float" in shown.stdout
        wrong = subprocess.run([ROOT / script, "train.lrr=1"], capture_output=True, text=True, env=environment, check=False)
        assert wrong.returncode == 2
        assert "unknown key 'train.lrr'" in wrong.stderr
        assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["2024_01_15", "exp #1"])
def test_the_name_of_a_run_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    root = write_tiny_voc(tmp_path)
    environment = {**os.environ, "PYTHON": sys.executable, "EXP": name}
    command = [str(ROOT / "gen_gt_voc.sh"), f"data.root={root}", "data.num_classes=3", "data.class_names=[a,b,c]"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert f"CAM folder runs/{name}/ms/attention cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("which", "written", "variable", "fusion"),
    [
        ("voc", "", "", "saliency"),
        ("voc", "threshold", "", "threshold"),
        ("voc", "threshold", "saliency", "saliency"),
        ("voc", "", "threshold", "threshold"),
        ("coco", "threshold", "", "threshold"),
    ],
)
def test_the_fusion_of_a_yaml_wins_over_the_scripts_and_the_variable_over_both(
    tmp_path: Path, which: str, written: str, variable: str, fusion: str
) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(f"base: {ROOT}/configs/l2g_{which}.yaml\n" + (f"pseudo: {{fusion: {written}}}\n" if written else ""))
    environment = {**os.environ, "PYTHON": "echo", "CONFIG": str(config), "FUSION": variable}
    done = subprocess.run([ROOT / f"gen_gt_{which}.sh"], capture_output=True, text=True, env=environment, check=True)
    _, program, *arguments = done.stdout.split()
    assert program == "scripts.gen_gt"
    assert parse_args(arguments, "").pseudo.fusion == fusion


PICTURES = {"wsol": {"images.png"}}  # those of the report; boxes have no scores by class
DEMO = ("train.epochs=2", "train.classify_epochs=1", "train.batch_size=3", "model.width=0.0625")
SYSTEMS = {
    "l2g": {"train.images_every": 0, "l2g.input_size": 48, "l2g.crop_size": 32, "l2g.short_side": 48},
    "wsfcn": {"validation.every": 1, "wsfcn.input_size": 48, "wsfcn.decoder_width": 8, "wsfcn.pamr.iterations": 2},
    "wsol": {"crt_wsol.vit.depth": 1},
}
STAGES = {  # columns of the table
    "l2g": ("CAM mIoU (train)", "DeepLab + CRF mIoU (train)", "DeepLab + CRF mIoU (val)"),
    "wsfcn": ("Label maps (masks) mIoU (train)", "(masks) mIoU (val)", "dense crf (masks/crf) mIoU (train)"),
    "wsol": ("CRT, boxes, last epoch", "| MaxBoxAccV2 |"),
}


@pytest.mark.timeout(900)  # up to twenty programs, each of which has to start
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_demo_runs_from_data_to_report(tmp_path: Path, warm_python: str, system: str) -> None:
    name = f"test_{tmp_path.parent.name}_{os.getpid()}"
    segment = "model.width=0.0625 image.size.train=49 solver.iter_max=2 solver.batch_size.train=4 threads=1 crf.workers=1"
    beside = "plain" if system == "l2g" else "none"  # one of them is enough
    environment = {
        **os.environ, "INTERPRETER": warm_python, "EXP": name, "DATA": str(tmp_path / "data"), "IMAGES": "6", "UNSEEN": "2",
        "PLAIN_EPOCHS": "1", "TRUNK_EPOCHS": "1", "SEG_OVERRIDES": segment, "SYSTEM": system, "BESIDE": beside,
    }  # fmt: skip
    command = [str(ROOT / "run_demo.sh"), *DEMO, *(f"{key}={value}" for key, value in SYSTEMS[system].items())]
    runs = ROOT / "runs"
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("| plain CAM |" in done.stdout) == (beside == "plain")
        assert all(column in done.stdout for column in STAGES[system])
        assert (runs / f"{name}_{system}" / "report" / "index.html").stat().st_size > 1000
        assert {path.name for path in (runs / f"{name}_{system}" / "report").glob("*.png")} == PICTURES.get(
            system, {"scores.png", "images.png"}
        )
    finally:
        for left in runs.glob(f"{name}_*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def test_the_demo_of_crt_makes_cams_of_both_branches_bound_and_apart() -> None:
    environment = {**os.environ, "INTERPRETER": "echo", "SYSTEM": "crt", "BESIDE": "crt_apart", "EXP": f"none_{os.getpid()}"}
    log = ROOT / "runs" / f"{environment['EXP']}_crt_apart.log"
    try:
        done = subprocess.run([ROOT / "run_demo.sh"], capture_output=True, text=True, env=environment, check=True)
        for text, weight in ((done.stdout, 0.1), (log.read_text(), 0)):
            rows = [line.split() for line in text.splitlines() if "--config" in line]
            programs = [row[1].removeprefix("scripts.") for row in rows]
            assert programs == ["train", *("make_cams", "evaluate_cams"), "gen_gt", "gen_gt", *("make_cams", "evaluate_cams")]
            assert ["cam.network=cnn" in row for row in rows] == [False] * 5 + [True] * 2
            last = parse_args(rows[-1][2:], "")
            assert (last.settings.l1_weight, last.cam.network) == (weight, "cnn")  # type: ignore[attr-defined]
    finally:
        log.unlink(missing_ok=True)


@pytest.mark.parametrize("segment", ["dplv2", "cdl_b", "cdl_e"])
def test_the_demo_segments_by_any_method(segment: str) -> None:
    environment = {**os.environ, "INTERPRETER": "echo", "SEGMENT": segment, "BESIDE": "none", "EXP": f"none_{os.getpid()}"}
    done = subprocess.run([ROOT / "run_demo.sh"], capture_output=True, text=True, env=environment, check=True)
    rows = [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("-m deeplab")]
    experts = [] if segment == "dplv2" else ["refresh"]
    assert [row[0] for row in rows] == ["train", *experts, "test", "test", "crf", "crf"]
    methods = {parse_segmentation(row[1:], "").method for row in rows}
    assert methods == {"plain" if segment == "dplv2" else segment}


@pytest.mark.parametrize("key", ["SYSTEM", "BESIDE", "SEGMENT"])
def test_the_demo_refuses_typos_before_it_begins(key: str) -> None:
    environment = {**os.environ, "INTERPRETER": "/nowhere", key: "l2gg"}
    done = subprocess.run([ROOT / "run_demo.sh"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{key} " in done.stderr and "'l2gg', expected" in done.stderr


def test_localisation_is_tested_by_each_way_of_picking_an_epoch(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTHON": "echo", "WEIGHTS": "final best epoch_18", "RUN_DIR": str(tmp_path)}
    tested = subprocess.run(
        [ROOT / "test_wsol_cub.sh", "MODEL.CAM_THR", "0.2"], capture_output=True, text=True, env=environment
    )
    *rows, table = [line.split()[1:] for line in tested.stdout.splitlines()]
    scored = [parse_args(row[1:], "") for row in rows if row[0] == "scripts.evaluate_boxes"]
    assert [(cfg.boxes.picked, Path(cfg.boxes.out).parent.name) for cfg in scored] == [
        ("last", "final"), ("held_out", "best"), ("test", "epoch_18")
    ]  # fmt: skip
    assert scored[0].boxes.threshold == 0.2
    assert table == ["scripts.compare", f"crt_wsol={tmp_path}", "--out", f"{tmp_path}/boxes/table.md"]
    environment["RUN_DIR"] = "published"
    command = [str(ROOT / "train_wsol_cub.sh"), "seed=3"]
    trained = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    folder = parse_args(trained.stdout.split()[2:], "").run_dir
    form = r"ckpt/CUB/deit_tscam_small_patch16_224_CAM-NORMAL_SEED3_CAM-THR0\.1_BS64_\d{4}(-\d\d){4}"
    assert re.fullmatch(form, folder)

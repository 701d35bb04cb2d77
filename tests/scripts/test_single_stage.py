"""WS-FCN through the programs: snapshots, masks and labels of the front door, bad input."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.schema import Config
from scripts import evaluate_boxes, gen_gt, make_cams, train
from scripts.build import build_inference_network
from tests.tiny_data import tiny_config
from utils.errors import UserError
from utils.training.weights import published_state

ROOT = Path(__file__).parents[2]
VALIDATED = (
    "validation.image_list=${data.train_list}",
    "validation.every=1",
    "validation.from_epoch=1",
    "validation.snapshots=9",
)
INFERRED = (
    "data.infer_list=${data.train_list}",
    "data.eval_list=${data.root}/train_aug.txt",
    "cam.pad_size=[64,64]",
    "pseudo.out_dir=${run_dir}/masks/crf",
)


def _config(tmp_path: Path, *overrides: str, method: str = "wsfcn") -> Config:
    return tiny_config(tmp_path, f"method={method}", "train.classify_epochs=1", "train.save_every=0", *overrides)


def _untrained(cfg: Config, path: Path) -> Path:
    """Write a network with random weights, as published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(published_state(build_inference_network(cfg)), path)
    return path


def _snapshots(cfg: Config) -> list[Path]:
    return sorted((Path(cfg.run_dir) / "model").glob("model_enc_e*.pth"))


@pytest.fixture
def trained(tmp_path: Path) -> Config:
    logged = "validation.log_list=${data.root}/train_aug.txt"  # without classes, which are those of the training list
    cfg = _config(tmp_path, "train.epochs=3", logged, *VALIDATED)
    assert train.run(cfg) == 0
    assert _snapshots(cfg)
    return cfg


def test_a_run_continued_from_a_snapshot_equals_an_uninterrupted_one(tmp_path: Path, trained: Config) -> None:
    first = _snapshots(trained)[0]
    state = torch.load(optimizer := first.with_name(first.name.replace("model_", "opt_")), weights_only=True)
    for group in state["param_groups"]:
        del group["lr_scale"]  # as in published files
    torch.save(state, optimizer)
    again = _config(tmp_path, "train.epochs=3", *VALIDATED, f"run_dir={tmp_path}/again", f"train.resume={first}")
    assert train.run(again) == 0
    one, other = (torch.load(Path(cfg.run_dir) / "model" / "final.pth", weights_only=True) for cfg in (trained, again))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_tensorboard_has_what_the_published_writers_had(trained: Config) -> None:
    boards = {name: EventAccumulator(str(Path(trained.run_dir) / "tb" / name)) for name in ("train", "val")}
    for board in boards.values():
        board.Reload()
    assert boards["train"].Tags()["images"] == ["visualisation"]  # of training pictures
    both = {*(f"all/loss{part}" for part in ("", "_cls", "_fg", "_mask")), "all_wo_BG/mAP", "01_red/AP"}
    assert both | {"all/checkpoint_score"} <= set(boards["val"].Tags()["scalars"])
    rates = [f"lr/enc_group_{group:02d}" for group in range(4)]
    assert {*both, *rates} <= set(boards["train"].Tags()["scalars"])
    assert "all/checkpoint_score" not in boards["train"].Tags()["scalars"]
    found = [boards["train"].Scalars(tag)[-1].value for tag in rates]
    np.testing.assert_allclose([rate / found[0] for rate in found], [1, 2, 20, 40], rtol=1e-5)


def test_snapshot_without_its_optimiser_or_of_another_one(tmp_path: Path, trained: Config) -> None:
    first = _snapshots(trained)[0]
    optimizer = first.with_name(first.name.replace("model_", "opt_"))
    cfg = _config(tmp_path, "train.epochs=3", *VALIDATED, f"run_dir={tmp_path}/again", f"train.resume={first}")
    torch.save({"state": {}, "param_groups": []}, optimizer)
    with pytest.raises(UserError, match=r"opt_enc_e00\dXs.*is no optimiser's state of such a run"):
        train.run(cfg)
    optimizer.unlink()
    with pytest.raises(UserError, match=r"no optimiser state opt_enc_e00\dXs.*train\.init_from="):
        train.run(cfg)
    with pytest.raises(UserError, match=r"model_enc_e099Xs0\.500\.pth does not exist"):
        train.run(_config(tmp_path, f"run_dir={tmp_path}/new", f"train.resume={tmp_path}/model_enc_e099Xs0.500.pth"))


def test_snapshot_of_another_trunk_or_method(tmp_path: Path) -> None:
    path = _untrained(_config(tmp_path), tmp_path / "model_enc_e018Xs0.905.pth")
    for override, message in (
        ("model.width=0.125", r"e018Xs0\.905\.pth does not fit: .*differ in shape.*model\.backbone"),
        ("model.backbone=vgg16", r"e018Xs0\.905\.pth does not fit.*"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            make_cams.run(_config(tmp_path, *INFERRED, f"cam.checkpoint={path}", override))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"missing keys \(aspp\."):
        make_cams.run(_config(tmp_path, *INFERRED, f"cam.checkpoint={path}", method="onestage"))
    with pytest.raises(UserError, match=r"model_enc_e001Xs0\.100\.pth does not exist"):
        make_cams.run(_config(tmp_path, *INFERRED, f"cam.checkpoint={tmp_path}/model_enc_e001Xs0.100.pth"))


def test_training_list_without_labels_or_masks(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    root = Path(cfg.data.root)
    (root / "bare.txt").write_text("img_000\nimg_001\n")
    with pytest.raises(UserError, match=r"bare\.txt line 1: 'img_000' has no classes"):
        train.run(_config(tmp_path, f"data.train_list={root}/bare.txt"))
    (root / "images.txt").write_text("JPEGImages/img_000.jpg\nJPEGImages/img_001.jpg\n")
    with pytest.raises(UserError, match=r"images\.txt gives no mask for 'img_000' \(2 such images\)"):
        train.run(_config(tmp_path, f"data.train_list={root}/images.txt", "data.paths=lists", "data.labels_from=masks"))


def test_image_larger_than_the_padded_size(tmp_path: Path) -> None:
    path = _untrained(_config(tmp_path), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"40 x 48 pixels, more than cam\.pad_size \(32 x 64\); set a larger one") as caught:
        make_cams.run(_config(tmp_path, *INFERRED, f"cam.checkpoint={path}", "cam.pad_size=[32,64]"))
    assert "\n" not in str(caught.value)


def test_images_smaller_than_a_dilation_of_pamr_are_refined(tmp_path: Path) -> None:
    """The largest distance is 24 pixels."""
    cfg = _config(tmp_path, *INFERRED, f"cam.checkpoint={tmp_path}/net.pth", "pseudo.refine=pamr", "cam.score_threshold=0")
    _untrained(cfg, tmp_path / "net.pth")
    for path in sorted((Path(cfg.data.root) / "JPEGImages").iterdir()):
        Image.open(path).resize((11, 7)).save(path)
    for path in (Path(cfg.data.root) / "SegmentationClassAug").iterdir():
        Image.open(path).resize((11, 7), Image.Resampling.NEAREST).save(path)
    make_cams.run(cfg)
    gen_gt.run(cfg)
    labels = [np.asarray(Image.open(path)) for path in Path(cfg.pseudo.out_dir).glob("*.png")]
    assert len(labels) == 6 and all(map.shape == (7, 11) for map in labels)


@pytest.mark.timeout(300)  # five programs, each of which has to start
def test_front_door_segments_refines_scores_and_draws(tmp_path: Path) -> None:
    """From a published snapshot name and the published environment, and a published override."""
    name = f"test_{tmp_path.parent.name}_{os.getpid()}"
    cfg = _config(tmp_path)
    snapshot = ROOT / "runs" / name / "v07" / "model" / "model_enc_e018Xs0.905.pth"
    settings = [
        f"data.root={cfg.data.root}", "data.num_classes=3", "data.class_names=[red,green,blue]", "data.workers=0", "device=cpu",
        "model.width=0.0625", "wsfcn.decoder_width=8", "crf.backend=torch", "score.workers=1", "pseudo.workers=1",
        "cam.pad_size=[64,64]", "data.label_list=${data.root}/train_cls.txt",
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHON": sys.executable, "EXP": name, "RUN_ID": "v07", "SNAPSHOT": "e018Xs0.905",
        "FILELIST": f"{cfg.data.root}/train_aug.txt", "OUTPUT_DIR": str(tmp_path / "out"),
    }  # fmt: skip
    out = tmp_path / "out"
    try:
        _untrained(cfg, snapshot)
        command = [str(ROOT / "test_wsfcn_voc.sh"), "--set", "TEST.SCALES", "[1]", "TEST.FP_CUT_SCORE", "0.0", *settings]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        names = {f"img_{n:03d}.png" for n in range(6)}
        for folder in (out, out / "crf", out / "vis"):
            assert {path.name for path in folder.glob("*.png")} == names
        for folder in (out, out / "crf"):
            assert all(Image.open(folder / file).mode == "P" for file in names)
        assert Image.open(out / "vis" / "img_000.png").size == (3 * 48, 40)
        for scores in ("label_scores/result.json", "label_scores/crf/result.json"):
            assert (snapshot.parents[1] / scores).exists()
        assert done.stdout.count("mean iou foreground") == 2
    finally:
        shutil.rmtree(ROOT / "runs" / name, ignore_errors=True)


def test_coco_front_doors_are_those_of_voc_with_its_configuration(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "EXP": "none"}
    for split in ("train", "val"):
        (tmp_path / f"{split}_cls.txt").write_text("img_000 80\n")
    for script in ("train_wsfcn_coco.sh", "test_wsfcn_coco.sh"):
        command = [str(ROOT / script), f"data.root={tmp_path}", f"run_dir={tmp_path}", "cam.labels=list"]
        wrong = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
        assert "class 80 is out of range; expected 0 to 79" in wrong.stderr


def test_masks_are_scored_by_their_boxes(tmp_path: Path) -> None:
    cfg = _config(tmp_path, *INFERRED, f"cam.checkpoint={tmp_path}/net.pth", "cam.score_threshold=0", "boxes.workers=1")
    _untrained(cfg, tmp_path / "net.pth")
    make_cams.run(cfg)
    result = evaluate_boxes.run(cfg)
    assert result["objects"] > 0
    assert 0 < result["pixel_average_precision"] < 1

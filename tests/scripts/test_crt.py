"""CRT through the programs: training, resuming, CAMs of both branches, the front doors."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import Config
from scripts import evaluate_cams, make_cams, train
from scripts.build import parse_args
from tests.tiny_data import tiny_config

VALIDATED = ("validation.image_list=${data.train_list}", "validation.views=corner")


def _config(tmp_path: Path, *overrides: str) -> Config:
    return tiny_config(tmp_path, "method=crt", "train.save_every=0", "train.lr=0.01", *overrides)


@pytest.fixture
def trained(tmp_path: Path) -> Config:
    cfg = _config(tmp_path, "train.epochs=3", *VALIDATED)
    assert train.run(cfg) == 0
    return cfg


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    for run, lengths in (("again", (1, 2)), ("whole", (2,))):
        for epochs in lengths:
            settings = [f"run_dir={tmp_path / run}", f"train.epochs={epochs}", "train.schedule=step", "train.decay_epochs=[]"]
            assert train.run(_config(tmp_path, *settings, "train.resume=auto")) == 0
    found, expected = (torch.load(tmp_path / run / "model" / "last.pth", weights_only=True) for run in ("again", "whole"))
    for key in ("state_dict", "cnn_dict"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)


def test_the_first_epoch_has_no_l1_term_and_both_branches_are_kept(trained: Config) -> None:
    log = (Path(trained.run_dir) / "log.txt").read_text()
    first, rest = log.split("refinement of the transformer begins")
    assert "cls_vit" in first and "l1" not in first and "l1" in rest
    rates = [float(rate) for rate in re.findall(r" lr ([\d.e-]+)", log)]
    assert len(rates) == 9 and rates == sorted(rates, reverse=True)  # one schedule over both phases, as published
    checkpoint = torch.load(Path(trained.run_dir) / "model" / "last.pth", weights_only=True)
    final = torch.load(Path(trained.run_dir) / "model" / "final.pth", weights_only=True)
    assert final.keys() == checkpoint["state_dict"].keys() and "blocks.0.attn.qkv.weight" in final
    assert "classifier.weight" in checkpoint["cnn_dict"] and "newly_added.0.weight" in checkpoint["cnn_dict"]


@pytest.mark.parametrize("network", ["global", "cnn"])
def test_cams_of_a_branch(trained: Config, network: str) -> None:
    trained.cam.network, trained.cam.dir = network, f"{trained.run_dir}/{network}/cams"
    trained.cam.checkpoint = f"{trained.run_dir}/model/last.pth"
    trained.eval.cam_dir, trained.cam.scales = trained.cam.dir, [1.0, 0.5]
    assert make_cams.run(trained)["done"] == 6
    assert make_cams.run(trained)["skipped"] == 6
    with np.load(next(Path(trained.cam.dir).glob("*.npz"))) as found:
        assert found["cam"].dtype == found["high_res"].dtype == np.float32
        assert found["cam"].shape[1:] == (10, 12) and found["high_res"].shape[1:] == (40, 48)
        assert 0 <= found["high_res"].min() <= found["high_res"].max() <= 1
    trained.data.eval_list = f"{trained.data.root}/train_aug.txt"
    evaluate_cams.run(trained)
    assert Path(trained.eval.out).exists()


def test_the_front_doors_run_the_stages_one_after_the_other_on_one_data_set() -> None:
    root, environment = Path(__file__).parents[2], {**os.environ, "PYTHON": "echo", "EXP": "mine", "DATA": "data/own"}
    environment["IRN_OVERRIDES"] = "pseudo.out_dir=labels train.epochs=1"
    train_, make = ([root / f"{name}_crt_voc.sh"] for name in ("train", "make"))
    done = subprocess.run([*train_, "seed=7"], capture_output=True, text=True, env=environment, check=True)
    done2 = subprocess.run([*make, "cam.batch_size=2"], capture_output=True, text=True, env=environment, check=True)
    rows = [line.split() for line in (done.stdout + done2.stdout).splitlines()]
    assert [row[1].removeprefix("scripts.") for row in rows] == [
        *("train", "make_cams", "evaluate_cams", "make_seeds", "train", "make_boundaries", "gen_gt")
    ]
    trained, cams, _, *refined = (parse_args(row[2:], "") for row in rows)
    assert (trained.method, trained.seed, cams.cam.batch_size, cams.data.root) == ("crt", 7, 2, "data/own")
    for cfg in refined:
        assert (cfg.method, cfg.data.root, cfg.cam.dir, cfg.train.epochs) == ("irn", "data/own", cams.cam.dir, 1)
    assert refined[-1].pseudo.out_dir == "labels" and refined[-1].pseudo.refine == "random_walk"


def test_another_refiner_than_irn_is_refused() -> None:
    script = Path(__file__).parents[2] / "gen_gt_voc.sh"
    done = subprocess.run([script], capture_output=True, text=True, env={**os.environ, "REFINE": "crf"}, check=False)
    assert done.returncode == 2 and "REFINE is 'crf', expected irn" in done.stderr

"""CAMs of any method -> seeds -> IRNet -> boundaries -> walked labels, as a user runs it; and what goes wrong."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from configs.schema import Config
from scripts import gen_gt, make_boundaries, make_instances, make_seeds, refine_cams, train
from scripts.make_cams import run as make_cams
from tests.tiny_data import tiny_config
from utils.cams.seeds import confident_labels
from utils.cams.store import read_small
from utils.data.images import read_label_map
from utils.data.lists import read_id_list
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "crt"


def _config(folder: Path, *overrides: str) -> Config:
    settings = ["train.epochs=2", "train.lr=0.01", "irn.seed_dir=${seeds.out_dir}", "seeds.crf.iter_max=3", "seeds.workers=1"]
    settings += ["random_walk.exp_times=1"]  # 256 steps reach all of these 120 cells
    return tiny_config(folder, "method=irn", f"cam.dir={folder / 'cams'}", *settings, "refine.workers=1", *overrides)


def _write_cams(cfg: Config) -> None:
    """Write CAMs that are the ground truth, blurred."""
    folder = Path(cfg.cam.dir)
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in read_id_list(cfg.data.eval_list):
        mask = read_label_map(Path(cfg.data.root) / cfg.data.label_dir / f"{image_id}.png", cfg.data.num_classes)
        for value in np.unique(mask[mask > 0]):
            cam = cv2.blur((mask == value).astype(np.float32), (9, 9))
            cv2.imwrite(str(folder / f"{image_id}_{value - 1}.png"), np.rint(cam / cam.max() * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run in which seeds, network and boundaries are there."""
    cfg = _config(tmp_path_factory.mktemp("irn"))
    _write_cams(cfg)
    make_seeds.run(cfg)
    assert train.run(cfg) == 0
    assert make_boundaries.run(cfg) == 6
    return cfg


def test_published_seeds() -> None:
    golden = np.load(GOLDEN / "ir_label.npz")
    from models.refiners.dense_crf import DenseCrf

    cfg = Config()
    crf = DenseCrf.from_settings(cfg.seeds.crf)
    labels = confident_labels(golden["keys"].tolist(), list(golden["high_res"]), golden["image"], cfg.seeds, crf)
    assert np.mean(labels != golden["ir_label"]) <= (0 if crf.backend == "pydensecrf" else 0.005)
    assert not confident_labels([], [], golden["image"], cfg.seeds, crf).any()


def test_the_chain_writes_everything(finished: Config) -> None:
    seeds = read_label_map(Path(finished.seeds.out_dir) / "img_000.png", 3)
    assert {0, 255} < set(np.unique(seeds).tolist())
    weights = torch.load(Path(finished.run_dir) / "model" / "final.pth", weights_only=True)
    assert weights["mean_shift.running_mean"].abs().max() > 0
    with np.load(Path(finished.boundaries.dir) / "img_000.npz") as file:
        assert file.files == ["boundary"] and file["boundary"].shape == (10, 12)
    result = gen_gt.run(finished)
    assert result["refined"] == {"random_walk": {"beta": 10, "steps": 2, "radius": 5, "maximum": "all"}}
    assert result["mean_iou"] > 0.5
    assert {path.stem for path in Path(finished.run_dir, "cards").glob("*.json")} >= {
        "training",
        "seeds_train",
        "boundaries_train",
    }


def test_finished_work_is_not_done_again(finished: Config) -> None:
    seed = Path(finished.seeds.out_dir) / "img_001.png"
    before = seed.stat().st_mtime_ns
    (Path(finished.boundaries.dir) / "img_002.npz").unlink()
    make_seeds.run(finished)
    assert seed.stat().st_mtime_ns == before
    assert make_boundaries.run(finished) == 1 and make_boundaries.run(finished) == 0
    with pytest.raises(UserError, match="made with another thresholds"):
        make_seeds.run(_with(finished, "seeds.conf_fg=0.5"))
    with pytest.raises(UserError, match="made with another displacements"):
        make_boundaries.run(_with(finished, "boundaries.displacements=true"))


def test_walked_cams_go_on_to_other_refiners(finished: Config, tmp_path: Path) -> None:
    alone = _with(finished, "refine.by=random_walk", f"refine.out_dir={tmp_path / 'walked'}")
    assert refine_cams.run(alone) == 6 and refine_cams.run(alone) == 0
    walked = read_small(tmp_path / "walked", "img_000", [1], (48, 40))
    assert walked.max() > 0.9
    both = _with(finished, "refine.by=[random_walk,pamr]", f"refine.out_dir={tmp_path / 'both'}")
    assert refine_cams.run(both) == 6
    source = json.loads((tmp_path / "both" / "source.json").read_text())
    assert source["refiner"]["names"] == ["random_walk", "pamr"]
    for order in ("[pamr,random_walk]", "[random_walk,random_walk]"):
        with pytest.raises(UserError, match="name it first"):
            refine_cams.run(_with(finished, f"refine.by={order}"))


def test_labels_by_saliency_are_walked_too(finished: Config, tmp_path: Path) -> None:
    result = gen_gt.run(_with(finished, "pseudo.fusion=saliency", f"pseudo.out_dir={tmp_path / 'labels'}"))
    assert result["refined"] and result["mean_iou"] > 0.5


def test_wrong_input_is_one_sentence(finished: Config, tmp_path: Path) -> None:
    boundaries, empty = tmp_path / "boundaries", tmp_path / "empty"
    boundaries.mkdir()
    empty.mkdir()
    cases = {
        "6 of 6 boundary files are missing": None,
        "expected boundary": np.zeros((3, 3), np.float32),
        "holds NaN": np.full((10, 12), np.nan, np.float32),
        "boundary is of int64, expected floating-point numbers": np.zeros((10, 12), np.int64),
        "a boundary everywhere": np.ones((10, 12), np.float32),
    }
    for message, boundary in cases.items():
        if boundary is not None:
            for image_id in read_id_list(finished.data.eval_list):
                np.savez(boundaries / f"{image_id}.npz", boundary=boundary)
        with pytest.raises(UserError, match=message):
            gen_gt.run(_with(finished, f"random_walk.boundary_dir={boundaries}"))
    with pytest.raises(UserError, match="walk them first"):
        gen_gt.run(_with(finished, "pseudo.pick=saliency"))
    with pytest.raises(UserError, match="makes boundaries, not CAMs"):
        make_cams(finished)
    with pytest.raises(UserError, match="conf_bg is 0.5, expected at most"):
        _with(finished, "seeds.conf_bg=0.5")
    with pytest.raises(UserError, match=r"\.png is missing"):
        make_seeds.run(_with(finished, f"seeds.cam_dir={empty}"))
    with pytest.raises(UserError, match="6 of 6 seed files are missing"):
        train.run(_with(finished, f"irn.seed_dir={empty}", f"run_dir={tmp_path / 'other'}"))


def test_the_front_door_names_the_whole_chain(tmp_path: Path) -> None:
    """Each of these programs, run again, does only what is missing; here only that they are called, and with what."""
    python, log = tmp_path / "python", tmp_path / "calls.txt"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "EXP": "mine", "REFINE": "irn", "FUSION": "", "GPUS": ""}
    subprocess.run([ROOT / "gen_gt_voc.sh", "data.root=x y"], env=environment, check=True)
    programs = [line.split()[1] for line in log.read_text().splitlines()]
    assert programs == ["scripts.make_seeds", "scripts.train", "scripts.make_boundaries", "scripts.gen_gt"]
    for line in log.read_text().splitlines():
        assert "--config configs/irn_voc.yaml name=mine_irn cam.dir=runs/mine/ms/attention" in line
        assert "data.root=x y" in line and "pseudo.fusion" not in line
    environment["REFINE"] = "pamr"
    refused = subprocess.run([ROOT / "gen_gt_voc.sh"], capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2 and "REFINE is 'pamr', expected irn" in refused.stderr


def test_a_finished_training_leaves_its_weights_alone(finished: Config) -> None:
    """What they were made into (boundaries) is known by their sum: it must not change when the chain runs again."""
    network = Path(finished.run_dir) / "model" / "final.pth"
    before = network.read_bytes(), network.stat().st_mtime_ns
    assert train.run(_with(finished, "train.resume=auto")) == 0
    assert (network.read_bytes(), network.stat().st_mtime_ns) == before


def _with(cfg: Config, *overrides: str) -> Config:
    folder = Path(cfg.run_dir).parent
    return _config(folder, *overrides)


def test_instances_are_written_and_scored(finished: Config, tmp_path: Path) -> None:
    truth = tmp_path / "SegmentationObject"
    truth.mkdir()
    masks = Path(finished.data.root) / finished.data.label_dir
    for path in masks.glob("*.png"):  # one object a class
        Image.fromarray(read_label_map(path, 3)).save(truth / path.name)
    settings = [
        *("boundaries.displacements=true", f"boundaries.dir={tmp_path / 'fields'}", "instances.workers=1"),
        *(f"instances.out_dir={tmp_path / 'instances'}", f"instances.truth_dir={truth}"),
    ]
    cfg = _with(finished, *settings)
    with pytest.raises(UserError, match="boundary files are missing"):
        make_instances.run(cfg)
    make_boundaries.run(cfg)
    precision = make_instances.run(cfg)
    assert set(precision) == {"red", "green", "blue"} and all(0 <= value <= 1 for value in precision.values())
    content = json.loads((tmp_path / "instances" / "instances.json").read_text())
    assert len(content["images"]) == 6 and content["annotations"] and content["categories"][0] == {"id": 1, "name": "red"}
    first = content["annotations"][0]
    assert sum(first["segmentation"]["counts"]) == 48 * 40 and sum(first["segmentation"]["counts"][1::2]) == first["area"]
    assert make_instances.run(cfg) == precision  # from the files
    with pytest.raises(UserError, match="holds no displacements"):
        make_instances.run(_with(finished, f"instances.out_dir={tmp_path / 'others'}", "instances.workers=1"))
    with pytest.raises(UserError, match="made with another"):
        make_instances.run(_with(finished, *settings, "instances.steps=3"))

"""The estimate of what a run writes, against numbers worked out by hand."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from configs.schema import Config
from utils.prepare.disk import RunSize, bytes_needed, disk_findings

SIZE = RunSize(images=100, labels=150, train_images=100, pixels=1000.0, parameters=2000)
Usage = namedtuple("Usage", "total used free")


def _config(tmp_path: Path) -> Config:
    cfg = Config()
    cfg.run_dir, cfg.cam.dir = str(tmp_path / "run"), str(tmp_path / "run/ms/attention")
    cfg.cam.label_dir, cfg.pseudo.out_dir = "", str(tmp_path / "pseudo")
    cfg.train.batch_size, cfg.train.epochs, cfg.train.images_every = 10, 3, 6
    return cfg


def test_bytes_by_hand(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    needs = dict(bytes_needed(cfg, SIZE).values())
    # Weights and momentum, twice (old and new file), and the weights alone.
    assert needs["checkpoints"] == 4 * (2000 * 2 * 2 + 2000)
    assert needs["TensorBoard"] == 5 << 20  # 30 batches, every sixth
    assert needs["CAMs"] == 150 * 1000 // 4
    assert needs["pseudo labels"] == 6000
    cfg.train.momentum, cfg.train.keep_epochs = 0.0, [1, 2]
    assert bytes_needed(cfg, SIZE)[tmp_path / "run/model"][1] == 4 * (2000 * 4 + 2000)
    cfg.train.optimizer = "adamw"
    assert bytes_needed(cfg, SIZE)[tmp_path / "run/model"][1] == 4 * (3 * 2000 * 4 + 2000)


def test_what_is_there_is_not_needed_again(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    before = bytes_needed(cfg, SIZE)[tmp_path / "run/model"][1]
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/last.pth").write_bytes(b"x" * 500)
    assert bytes_needed(cfg, SIZE)[tmp_path / "run/model"][1] == before - 500


def test_only_checkpoints_that_do_not_fit_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {tmp_path / "model": ("checkpoints", 50), tmp_path / "cams": ("CAMs", 100)}
    for free, expected in ((200, []), (100, [False]), (20, [True])):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(1000, 1000 - free, free))
        assert [finding.stops for finding in disk_findings(needs, tmp_path / "model")] == expected

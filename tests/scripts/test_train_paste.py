"""Training with suppression, attention and pasting as a program: off means off, and stage B goes on from stage A."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.schema import Config
from scripts import train as train_l2g
from scripts.build import load_config
from tests.bank_files import write_tiny_bank
from tests.tiny_data import tiny_config
from utils.data.paste import write_index
from utils.errors import UserError
from utils.training.weights import read_weights

ROOT = Path(__file__).parents[2]
# A low rate: random weights without statistics of their own explode at the published one.
GATES = ("model.suppression=learnable", "model.attention=se", "train.lr=1e-6")


def _train(tmp_path: Path, name: str, *overrides: str) -> tuple[Config, dict[str, torch.Tensor]]:
    cfg = tiny_config(tmp_path, f"run_dir={tmp_path / name}", "train.classify_epochs=1", *overrides)
    assert train_l2g.run(cfg) == 0
    return cfg, _weights(cfg)


def _weights(cfg: Config) -> dict[str, torch.Tensor]:
    path = Path(cfg.run_dir) / "model" / "last.pth"
    return {f"{role}.{k}": v for role in ("global", "local") for k, v in read_weights(path, role).items()}


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_everything_off_is_plain_l2g_bit_for_bit(tmp_path: Path) -> None:
    bank = write_tiny_bank(tmp_path / "bank")
    _, plain = _train(tmp_path, "plain")
    _, off = _train(
        tmp_path,
        "off",
        "model.suppression=none",
        "model.attention=none",
        "model.suppression_places=[b3]",
        "model.train_gates=true",
        "l2g.paste.mode=none",
        f"l2g.paste.bank={bank}",
    )
    assert _same(plain, off)
    # Not yet on: the transform is there, and no sample may notice.
    _, later = _train(tmp_path, "later", "l2g.paste.mode=pair", f"l2g.paste.bank={bank}", "l2g.paste.from_epoch=2")
    assert _same(plain, later)


@pytest.mark.parametrize("mode", ["pair", "replace"])
def test_pasting_trains_reproducibly(tmp_path: Path, mode: str) -> None:
    settings = (f"l2g.paste.mode={mode}", f"l2g.paste.bank={write_tiny_bank(tmp_path / 'bank')}")
    _, plain = _train(tmp_path, "plain")
    _, one = _train(tmp_path, "one", *settings)
    _, two = _train(tmp_path, "two", *settings, "data.workers=2")
    assert _same(one, two) and not _same(one, plain)


def test_gates_keep_their_start_unless_they_are_trained(tmp_path: Path) -> None:
    key = "DRS_learnable_layer7.fc.0.weight"
    _, before = _train(tmp_path, "a", *GATES, "train.lr=1e-9")
    _, after = _train(tmp_path, "b", *GATES)
    assert torch.equal(before[f"global.{key}"], after[f"global.{key}"])
    _, trained = _train(tmp_path, "c", *GATES, "model.train_gates=true")
    assert not torch.equal(after[f"global.{key}"], trained[f"global.{key}"])


def test_stage_b_goes_on_from_both_networks_of_stage_a(tmp_path: Path) -> None:
    first, stage_a = _train(tmp_path, "a", *GATES)
    settings = (
        *GATES,
        f"train.init_from={first.run_dir}/model/last.pth",
        "train.init_local=local",
        "train.first_epoch=2",
        "train.epochs=3",
        "train.decay_epochs=[]",
        "l2g.paste.mode=pair",
        "l2g.paste.leak_labels=true",
        "l2g.paste.swap_background=true",
        f"l2g.paste.bank={write_tiny_bank(tmp_path / 'bank')}",
    )
    still, stage_b = _train(tmp_path, "still", *settings, "train.lr=1e-12", "train.weight_decay=0")
    for key, value in stage_a.items():
        torch.testing.assert_close(stage_b[key], value, rtol=0, atol=1e-8)
    assert "epoch 2 batch 3/3 lr 1e-12" in (Path(still.run_dir) / "log.txt").read_text()
    _, moved = _train(tmp_path, "b", *settings)
    assert not torch.equal(stage_a["local.fc8.weight"], moved["local.fc8.weight"])
    gates = [key for key in moved if "DRS" in key or "se_layer" in key]
    assert len(gates) == 12 and all(torch.equal(moved[key], stage_a[key]) for key in gates)
    with pytest.raises(UserError, match=r"holds no object; run scripts.make_foreground_bank"):
        write_index(tmp_path / "empty", [], {})
        _train(tmp_path, "c", *settings, f"l2g.paste.bank={tmp_path / 'empty'}")


def test_the_published_configurations_are_consistent() -> None:
    stage_a = load_config(ROOT / "configs" / "l2g_voc_sa.yaml")
    stage_b = load_config(ROOT / "configs" / "l2g_voc_sa_cda.yaml")
    assert stage_b.train.first_epoch == stage_a.train.epochs == 10 and stage_b.train.epochs == 13
    assert stage_b.train.init_from == f"{stage_a.run_dir}/model/last.pth" and stage_b.settings.paste.bank == stage_a.bank.dir
    assert (stage_a.train.lr, stage_b.train.lr, stage_b.settings.paste.overlap, stage_b.pseudo.threshold) == (
        1e-3,
        5e-4,
        0.2,
        0.35,
    )
    for cfg in (stage_a, stage_b):
        assert (cfg.model.suppression, cfg.model.attention, cfg.model.train_gates) == ("learnable", "se", False)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_ablation_rows_differ_from_their_base_only_in_the_three_parts(path: Path) -> None:
    row = load_config(path)
    base = load_config(ROOT / "configs" / ("l2g_voc_mini.yaml" if "voc_mini" in path.stem else "l2g_demo.yaml"))
    assert (row.train, row.cam, row.data) == (base.train, replace(base.cam, **_paths(row)), base.data)
    gates = ("suppression", "suppression_places", "attention", "attention_places", "train_gates")
    assert row.model == replace(base.model, **{name: getattr(row.model, name) for name in gates})
    assert row.settings == replace(base.settings, paste=row.settings.paste)
    parts = {"suppression": row.model.suppression, "attention": row.model.attention, "paste": row.settings.paste.mode}
    wanted = set(parts) if "all" in path.stem or "cda" in path.stem else {path.stem.removeprefix("demo_")}
    assert {name for name, value in parts.items() if value != "none"} == wanted


def _paths(cfg: Config) -> dict[str, Any]:
    return {name: getattr(cfg.cam, name) for name in ("checkpoint", "dir", "label_dir")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("l2g.paste.mode=pair", r"l2g.paste.mode is pair, which needs l2g.paste.bank"),
        ("l2g.paste.scale=[0.8,1.5]", r"l2g.paste.fit times the upper end of l2g.paste.scale is 1.05"),
        ("l2g.paste.scale=[1.2,0.8]", r"l2g.paste.scale is \[1.2, 0.8\], expected two numbers"),
        ("l2g.paste.attempts=0", r"l2g.paste.attempts is 0, expected >= 1"),
        ("bank.share=[0.7,0.1]", r"bank.share is \[0.7, 0.1\]"),
        ("train.first_epoch=10", r"train.first_epoch is 10, expected below train.epochs"),
        ("model.attention=sse", r"model.attention is 'sse', expected one of none, se"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_l2g.run(tiny_config(tmp_path, override))

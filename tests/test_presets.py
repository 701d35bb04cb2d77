"""Published means published: what every shipped configuration, by its name, keeps or leaves of the published behaviour.

The rule: a file is published unless it is one of ours, which "improved", "mini" or "demo" in its name says (or in that of a
file it stands on), or "published" in its own name denies.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deeplab.settings import deeplab_schema
from scripts.build import load_config
from utils.config import flat_settings, load_schema

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))
OURS = {"improved", "mini", "demo"}

# What computes as published, of all stages and of each; the improved presets' values.
PUBLISHED: dict[str, dict[str, Any]] = {
    "first": {"precision": "fp32", "pseudo.conflict_counts": "all"},
    "segmentation": {"precision": "fp32", "crf.image": "published", "train.loss": "ce"},
}
# Beside L2G with pasting another loss and rate were published than with the others.
PUBLISHED_ELSEWHERE: dict[str, dict[str, Any]] = {"voc12_resnet_dplv2_sa_cda": {"train.loss": "ce_all", "solver.lr": 1e-4}}
# Of experts: what the published program does by omission, and what the improved preset makes of it.
PUBLISHED_CDL: dict[str, Any] = {
    "cdl.train_affinity": False,
    "cdl.swap_thresholds": True,
    "cdl.credit_ties": False,
    "cdl.refresh_ignored": True,
    "cdl.dice_counts_ignored": True,
    "cdl.early_dice": True,
    "cdl.output_divisor": 2.0,
    "model.msc_scales": [0.5, 0.75],
}
IMPROVED_CDL = {key: not value for key, value in PUBLISHED_CDL.items() if isinstance(value, bool)} | {"cdl.output_divisor": 1.0}
IMPROVED: dict[str, dict[str, Any]] = {
    "first": {"precision": "auto"},
    "segmentation": {"precision": "auto", "crf.image": "true"},
}


def is_published(path: Path) -> bool:
    """Return whether a configuration follows the published program by the rule above."""
    words = set(path.stem.split("_"))
    if words & {"published", *OURS}:
        return "published" in words
    base = yaml.safe_load(path.read_text(encoding="utf-8")).get("base")
    return base is None or is_published(path.parent / base)


def stage_of(path: Path) -> str:
    """Return the stage a file is of: one with a solver, or that stands on one, is the segmentation stage's."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = {key.lower(): value for key, value in content.items()}.get("base")
    if "solver" in map(str.lower, content):
        return "segmentation"
    return "first" if base is None else stage_of(path.parent / base)


def settings_of(path: Path) -> dict[str, Any]:
    return flat_settings(load_schema(path, [], deeplab_schema) if stage_of(path) == "segmentation" else load_config(path))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads(path: Path) -> None:
    settings = settings_of(path)
    assert settings["exp.id" if stage_of(path) == "segmentation" else "name"]


def test_the_rule_tells_them_apart() -> None:
    """Neither kind is empty, and names mean what a reader takes them for."""
    found = {path.stem: is_published(path) for path in PRESETS}
    theirs = ("l2g_voc", "l2g_coco", "wsfcn_coco", "voc12_vgg_dplv1", "l2g_voc_mini_published", "voc12_coco_predtrain", "coco")
    ours = ("l2g_voc_improved", "l2g_voc_sa_cda_improved", "demo_paste", "demo_dplv2", "voc12_cdl_improved")
    assert all(found[name] for name in theirs)
    assert not any(found[name] for name in ours)


@pytest.mark.parametrize("path", [p for p in PRESETS if is_published(p)], ids=lambda path: path.stem)
def test_published_presets_are_published(path: Path) -> None:
    settings = settings_of(path)
    assert (PUBLISHED[stage_of(path)] | PUBLISHED_ELSEWHERE.get(path.stem, {})).items() <= settings.items()
    assert settings.get("l2g.kd_accumulate", "sum") == "sum"
    assert settings.get("train.untrained_fov", False) == (settings.get("model.name") == "DeepLabV1_ResNet101_MSC")
    if settings.get("method") in ("cdl_b", "cdl_e"):
        assert PUBLISHED_CDL.items() <= settings.items()


@pytest.mark.parametrize("path", [p for p in PRESETS if "improved" in p.stem], ids=lambda path: path.stem)
def test_improved_presets_are_improved(path: Path) -> None:
    settings = settings_of(path)
    assert IMPROVED[stage_of(path)].items() <= settings.items()
    assert settings.get("l2g.kd_accumulate", "mean") == "mean"
    assert settings.get("pseudo.fusion") != "saliency" or settings["pseudo.conflict_counts"] == "classes"
    assert not settings.get("train.untrained_fov", False)
    if settings.get("method") in ("cdl_b", "cdl_e"):
        assert IMPROVED_CDL.items() <= settings.items()


@pytest.mark.parametrize(("stage", "name"), [("first", "mine.yaml"), ("segmentation", "mine_dplv2.yaml")])
def test_what_a_file_does_not_say_is_published(tmp_path: Path, stage: str, name: str) -> None:
    """As the published programs' own files say nothing of it."""
    (tmp_path / name).write_text("SEED: 0\n" + "SOLVER: {}\n" * (stage == "segmentation"))
    assert PUBLISHED[stage].items() <= settings_of(tmp_path / name).items()

"""Configuration files: presets, overrides, and what a typo gets."""

from pathlib import Path
from typing import cast

import pytest

from models.l2g import L2GSettings
from scripts.build import load_config, parse_args
from utils.config import flat_settings, save_config
from utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(p for p in CONFIGS.rglob("*.yaml") if "_dplv" not in p.stem), ids=lambda p: p.stem)
def test_every_preset_loads(path: Path) -> None:
    assert load_config(path).name


def test_flat_settings_have_dotted_keys() -> None:
    flat = flat_settings(load_config(CONFIGS / "l2g_voc.yaml", ["cam.scales=[1.0]", "seed=3"]))
    assert (flat["cam.scales"], flat["seed"], flat["l2g.paste.bank"]) == ([1.0], 3, "")
    assert not any(isinstance(value, dict) for value in flat.values())


def test_published_values() -> None:
    voc, coco = load_config(CONFIGS / "l2g_voc.yaml"), load_config(CONFIGS / "l2g_coco.yaml")
    one, other = (cast(L2GSettings, cfg.settings) for cfg in (voc, coco))
    assert (voc.train.epochs, voc.train.batch_size, voc.train.lr, one.kd_weight, one.patches) == (10, 3, 0.001, 10, 6)
    assert (coco.train.epochs, coco.train.batch_size, coco.train.lr, other.kd_weight, other.patches) == (15, 12, 0.1, 30, 4)
    assert (coco.train.momentum, coco.train.weight_decay, coco.train.nesterov) == (0.0005, 0.0, False)
    assert (one.background_target, other.background_target) == ("indicator", "value")


def test_base_file_and_overrides_and_case(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nTRAIN:\n  LR: 0.5\n  epochs: 3\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\nname: child\n")
    cfg = load_config(tmp_path / "child.yaml", ["train.epochs=7", "cam.scales=[1.0,2.0]"])
    assert (cfg.name, cfg.train.lr, cfg.train.epochs, cfg.cam.scales) == ("child", 0.5, 7, [1.0, 2.0])
    assert cfg.cam.dir == "runs/child/ms/attention"


def test_saved_configuration_loads_back(tmp_path: Path) -> None:
    cfg = load_config(CONFIGS / "l2g_coco.yaml")
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  lerning_rate: 1\n", "unknown key 'train.lerning_rate'"),
        ("train:\n  lr: fast\n", "train.lr"),
        ("train: [1, 2\n", "not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
        ("l2g:\n  crop: sideways\n", "expected one of"),
        ("data:\n  root: ${nothing}\n", "nothing"),
        ("base: self.yaml\n", "circle"),
        ("name: 2024-13-01\n", "not valid YAML"),
        (f"name: {'[' * 5000}\n", "not valid YAML"),
        (f"name: {'[' * 100 + ']' * 100}\n", "nested more than 20 deep"),
        ("name: &a [*a]\n", "nested more than 20 deep"),
        ("name: &a {b: *a}\n", "nested more than 20 deep"),
        (
            "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 18))]),
            "more than 10000 values",
        ),
    ],
)
def test_wrong_files_get_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "self.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert "self.yaml" in str(caught.value)


@pytest.mark.parametrize("argv", [[], ["--config"], ["--config", "missing.yaml"], ["--config", "x.yaml", "--lr", "1"],
                                  ["--config", "configs/l2g_voc.yaml", f"cam.scales={'[' * 100 + ']' * 100}"]])  # fmt: skip
def test_wrong_command_lines(argv: list[str]) -> None:
    with pytest.raises(UserError):
        parse_args(argv, "doc")


def test_help_names_keys_types_defaults_and_meanings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--help"], "What it does.")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for expected in ("What it does.", "train.lr (float, default 0.001)", "cam.scales (list[float]", "One of: step, poly"):
        assert expected in printed


def test_an_empty_value_on_the_command_line_is_an_empty_text() -> None:
    cfg = load_config(CONFIGS / "l2g_voc_mini.yaml", ["model.pretrained=", "crf.image=True"])
    assert cfg.model.pretrained == ""
    assert cfg.crf.image == "true"

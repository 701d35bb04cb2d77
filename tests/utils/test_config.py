"""Configuration files: presets, overrides, and what a typo gets."""

from pathlib import Path
from typing import cast

import pytest

from deeplab.settings import deeplab_schema
from models.l2g import L2GSettings
from scripts.build import load_config, parse_args
from utils.config import flat_settings, load_schema, save_config
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


def test_a_base_may_be_null_or_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "007").write_text("base:\nname: one\n")
    (tmp_path / "child.yaml").write_text("base: 007\nseed: 2\n")
    cfg = load_config(tmp_path / "child.yaml")
    assert (cfg.name, cfg.seed) == ("one", 2)


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
    for expected in (
        "What it does.",
        "train.lr (float, default 0.001)",
        "SGD momentum; in [0, 1)",
        "cam.scales (list[float]",
        "One of: step, poly",
    ):
        assert expected in printed


def test_an_empty_value_on_the_command_line_is_an_empty_text() -> None:
    cfg = load_config(CONFIGS / "l2g_voc_mini.yaml", ["model.pretrained=", "crf.image=True"])
    assert cfg.model.pretrained == ""
    assert cfg.crf.image == "true"


def test_the_section_of_a_refiner_named_before_other_keys_of_its_section() -> None:
    named = ["refine.by=pamr", "refine.overwrite=true", "pamr.iterations=3"]
    assert load_config(CONFIGS / "l2g_voc.yaml", named).pamr.iterations == 3  # type: ignore[attr-defined]


TEXTS = ["2024_01_15", "2024-01-15", "007", "on", "exp #1", "1e5", "null", "[a", "{a: b}", "a: b", "'x'", "~"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_taken_as_they_are_written(tmp_path: Path, text: str) -> None:
    """Of an argument, of a YAML file, and of the copy a run keeps of its configuration."""
    cfg = load_config(CONFIGS / "l2g_voc.yaml", [f"name={text}", "train.lr=1e-6", "train.nesterov=off"])
    assert (cfg.name, cfg.run_dir, cfg.train.lr, cfg.train.nesterov) == (text, f"runs/{text}", 1e-6, False)
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg


def test_texts_of_a_file_and_of_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: 2024_01_15\nmodel: {allow_missing: [007, on]}\ndata: {class_names: [no, 2024-01-15, yes]}\n")
    cfg = load_config(path, ["model.allow_unexpected=[1_0, off, a.*]"])
    assert (cfg.name, cfg.model.allow_missing, cfg.model.allow_unexpected) == (
        "2024_01_15",
        ["007", "on"],
        ["1_0", "off", "a.*"],
    )
    assert cfg.data.class_names == ["no", "2024-01-15", "yes"]
    assert load_config(path, ["data.class_names=007"]).data.class_names == "007"


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=-1", "train.lr=.nan", "train.lr=.inf", "train.classify_lr=-1", "train.lr_head_factor=-1",
        "train.momentum=1.5", "train.momentum=-0.1", "train.clip_grad=-1", "train.warmup_iters=-5", "train.poly_power=-1",
        "train.weight_decay=-1", "train.decay_factor=-0.1", "train.decay_epochs=[-1]", "train.log_every=0",
        "train.save_every=-1", "train.keep_epochs=[10]", "train.keep_epochs=[-1]", "l2g.kd_weight=-1",
        "l2g.global_cls_weight=-1", "l2g.color_jitter=[0.1,0.1,0.1,9]", "l2g.color_jitter=[-1,0,0,0]", "l2g.short_side=0",
        "l2g.input_size=100000", "l2g.input_size=0", "l2g.paste.fit=2", "data.workers=-1", "data.std=[0,1,1]",
        "data.mean=[.nan,0,0]", "seed=12345678901234567890", "seed=-1", "threads=100000", "threads=-1", "model.width=0",
        "cam.scales=[-1.0]", "cam.score_threshold=2", "eval.workers=-1", "pseudo.cam_floor=2", "pseudo.salient=-1",
        "bank.min_score=-1", "view.opacity=3", "crf.iter_max=0", "saliency.input_size=0", "run_dir=", "name=",
        "data.root=", "cam.dir=", "device=",
    ],
)  # fmt: skip
def test_values_out_of_range_name_the_key(override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]} is .*expected") as caught:
        load_config(CONFIGS / "l2g_voc.yaml", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "solver.lr=-1", "solver.momentum=2", "solver.poly_power=-1", "solver.weight_decay=-1", "solver.iter_tb=0",
        "train.warmup_iters=-1", "train.save_every=-1", "dataloader.num_workers=-1", "image.size.train=100000",
        "image.size.base=0", "dataset.n_classes=1", "dataset.scales=[0]", "seed=12345678901234567890", "threads=100000",
        "exp.id=", "exp.output_dir=", "model.atrous_rates=[0]", "model.msc_scales=[-0.5]",
    ],
)  # fmt: skip
def test_values_out_of_range_name_the_key_of_the_segmentation_stage(override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]} is .*expected"):
        load_schema(CONFIGS / "voc12_resnet_dplv2.yaml", [override], deeplab_schema)

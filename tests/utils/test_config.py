"""Configuration files: presets, overrides, and what a typo gets."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from deeplab.settings import deeplab_schema
from models.l2g import L2GSettings
from scripts.build import load_config, parse_args
from utils.config import flat_settings, load_schema, save_config
from utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    """Reading it would wait for ever for somebody to write."""
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml cannot be read \(not a file but a folder, pipe or device\)"):
        load_config(tmp_path / "a.yaml")


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
        (f"name: {'[' * 5000}\n", "not valid YAML"),
        (f"name: {'[' * 100 + ']' * 100}\n", "nested more than 20 deep"),
        ("name: &a [*a]\n", "not valid YAML"),
        ("name: &a {b: *a}\n", "not valid YAML"),
        ("data:\n  mean: {a: 1}\n", "key 'data.mean' is keys and values, expected a list"),
        ("train: {decay_epochs: [[1]]}\n", "train.decay_epochs is .*, expected a list without lists"),
        ("train: {shuffle: 2}\n", "train.shuffle"),
        ("train: {epochs: 99999999999999999999}\n", "train.epochs is 99999999999999999999, expected"),
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


def test_a_default_argument_loses_against_files_their_bases_and_other_arguments(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"base: {CONFIGS / 'l2g_voc_improved.yaml'}\npseudo: {{threshold: 0.3}}\n")
    cfg = load_config(
        path, ["train.lr=1", "pseudo.threshold?=0.5", "pseudo.fusion?=threshold", "train.lr?=2", "pseudo.workers?=3"]
    )
    assert (cfg.pseudo.threshold, cfg.pseudo.fusion, cfg.train.lr, cfg.pseudo.workers) == (0.3, "saliency", 1, 3)
    with pytest.raises(UserError, match="unknown key 'pseudo.worker'"):
        load_config(path, ["pseudo.worker?=3"])


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


# The published defaults, and what voc_resnet38.yaml of WS-FCN says.
DEFAULTS = """
NUM_GPUS: 1
TRAIN: {BATCH_SIZE: 20, NUM_EPOCHS: 15, NUM_WORKERS: 4, PRETRAIN: 5, MASK_LOSS: 0.0}
DATASET: {CROP_SIZE: 321, SCALE_FROM: 0.9, SCALE_TO: 1.0, PATH: data/images}
NET: {BACKBONE: resnet50, MODEL: ae, PRE_WEIGHTS_PATH: "", OPT: SGD, LR: 0.001, BETA1: 0.5, MOMENTUM: 0.9, WEIGHT_DECAY: 1e-5,
  LOSS: SoftMargin, MASK_LOSS_BCE: 1.0, BG_SCORE: 0.1, FOCAL_P: 3, FOCAL_LAMBDA: 0.01, PAMR_KERNEL: [1, 2, 4, 8, 12, 24],
  PAMR_ITER: 10, SG_PSI: 0.3}
TEST: {METHOD: multiscale, DATA_ROOT: data, SCALES: [1, 0.5, 1.5, 2.0], FLIP: True, BATCH_SIZE: 8, PAD_SIZE: [1024, 1024],
  CROP_SIZE: [448, 448], CROP_GRID_SIZE: [2, 2], BG_POW: 3, FP_CUT_SCORE: 0.1, USE_GT_LABELS: False}
MASKS: {CRF: {ALPHA_LOW: 4, ALPHA_HIGH: 32}}
CUDA: False
DEBUG: False
PYTORCH_VERSION_LESS_THAN_040: False
"""
RESNET38 = """
TRAIN: {BATCH_SIZE: 16, NUM_EPOCHS: 30, NUM_WORKERS: 8, PRETRAIN: 7}
NET: {BACKBONE: resnet38, MODEL: ae, PRE_WEIGHTS_PATH: ./their.pth, WEIGHT_DECAY: 0.0005}
"""


def published(tmp_path: Path, text: str, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "their.yaml"
    path.write_text(text)
    return flat_settings(parse_args(["--cfg", str(path), *arguments], "doc"))


def changed(found: dict[str, Any], name: str = "wsfcn_voc") -> dict[str, Any]:
    """Return what differs from a preset."""
    preset = flat_settings(load_config(CONFIGS / f"{name}.yaml"))
    return {key: value for key, value in found.items() if value != preset[key]}


def test_published_file_of_wsfcn_is_the_preset(tmp_path: Path) -> None:
    assert changed(published(tmp_path, RESNET38)) == {"model.pretrained": "./their.pth"}


def test_keys_a_published_file_leaves_out_have_their_published_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = published(tmp_path, DEFAULTS)
    assert capsys.readouterr().err == (
        "published settings without effect here: NUM_GPUS, TRAIN.NUM_WORKERS, TRAIN.MASK_LOSS, DATASET.PATH, NET.BETA1, "
        "TEST.DATA_ROOT, TEST.BATCH_SIZE, TEST.CROP_SIZE, TEST.CROP_GRID_SIZE, TEST.BG_POW, MASKS.CRF.ALPHA_LOW, "
        "MASKS.CRF.ALPHA_HIGH, CUDA, DEBUG, PYTORCH_VERSION_LESS_THAN_040\n"
    )
    assert every == published(tmp_path, "NET: {MODEL: ae}")
    assert not capsys.readouterr().err
    assert changed(every) == {
        "train.batch_size": 20, "train.epochs": 16, "train.classify_epochs": 5, "validation.from_epoch": 5,
        "train.weight_decay": 1e-5, "model.backbone": "resnet50", "model.output_stride": 16, "model.pretrained": "",
        "model.allow_unexpected": ["fc.*"], "wsfcn.bias_factor": 1, "wsfcn.head_bias_factor": 10,
    }  # fmt: skip


def test_published_overrides_and_flags(tmp_path: Path) -> None:
    settings = ["--set", "NET.MODEL", "bsl", "TRAIN.NUM_EPOCHS", "6", "NET.LR", "1e-4", "TEST.SCALES", "(1, 0.5)", "seed=3"]
    flags = ["--exp", "mine", "--run", "v02", "--resume=e018Xs0.905", "--infer-list", "test.txt", "--mask-output-dir", "out"]
    found = changed(published(tmp_path, RESNET38, *settings, *flags))
    snapshot = "runs/mine/v02/model/model_enc_e018Xs0.905.pth"
    expected = {
        "method": "bsl", "train.epochs": 7, "train.lr": 1e-4, "cam.scales": [1, 0.5], "seed": 3, "name": "mine",
        "run_dir": "runs/mine/v02", "train.resume": snapshot, "cam.checkpoint": snapshot, "data.infer_list": "test.txt",
        "data.eval_list": "test.txt", "cam.label_dir": "out", "pseudo.out_dir": "out/crf", "cam.label_power": 1,
        "model.allow_missing": ["fc8.*"],
    }  # fmt: skip
    assert found.items() >= expected.items()
    crops = published(tmp_path, RESNET38, "--set", "TEST.METHOD", "multicrop", "TEST.CROP_GRID_SIZE", "[3,3]")
    assert changed(crops) == {
        "model.pretrained": "./their.pth", "cam.scales": [1], "cam.crop_size": [448, 448], "cam.crop_grid": [3, 3],
    }  # fmt: skip
    coco = parse_args(["--dataset", "coco", "--set", "NET.LOSS", "Hinge", "TEST.USE_GT_LABELS", "True"], "doc")
    assert changed(flat_settings(coco), "wsfcn_coco") == {"wsfcn.cls_loss": "hinge", "cam.labels": "list"}


@pytest.mark.parametrize("backbone", ["resnet38", "resnet50", "resnet101", "vgg16"])
def test_published_trunk_is_that_of_the_preset(tmp_path: Path, backbone: str) -> None:
    """Everything that the trunk decides: NET.BACKBONE on the ResNet-38 preset of 1-Stage gives the keys of the trunk's own."""
    preset = flat_settings(load_config(CONFIGS / f"onestage_voc_{backbone}.yaml"))
    arguments = ["--config", str(CONFIGS / "onestage_voc_resnet38.yaml"), "--set", "NET.BACKBONE", backbone, "TEST.BG_POW", "1"]
    found = flat_settings(parse_args(arguments, "doc"))
    keys = ("method", "model.backbone", "model.output_stride", "model.allow_unexpected", "wsfcn.bias_factor")
    assert {k: found[k] for k in keys} == {k: preset[k] for k in keys}
    assert found["wsfcn.head_bias_factor"] == preset["wsfcn.head_bias_factor"]
    assert (found["cam.label_power"], found["pseudo.background_power"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "NET.LERNING_RATE", "1"], "'NET.LERNING_RATE' is unknown"),
        (["--set", "NET.LR", "fast"], "'NET.LR' is 'fast', expected a value of type float"),
        (["--set", "TEST.FLIP", "1"], "'TEST.FLIP' is 1, expected a value of type bool"),
        (["--set", "NET.MODEL", "vgg16"], "'NET.MODEL' is 'vgg16', expected one of ae, bsl"),
        (["--set", "NET.OPT", "Adam"], "'NET.OPT' is 'Adam', expected one of SGD"),
        (["--set", "NET.LR"], "'NET.LR' is neither .* KEY has no VALUE"),
        (["--cfg"], "--cfg needs a value"),
        (["--cfg", "missing.yaml"], "missing.yaml cannot be read"),
        (["--dataset", "ade"], "--dataset is ade, expected one of pascal_voc, coco"),
        (["--dataset", "coco", "--snapshot-dir", "x"], "'--snapshot-dir' is neither"),
    ],
)
def test_wrong_published_arguments_get_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_args(arguments, "doc")
    assert "\n" not in str(caught.value)


def test_published_file_that_relies_on_the_default_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"their\.yaml: published key 'NET.MODEL' is 'vgg16', expected one of ae, bsl"):
        published(tmp_path, "TRAIN: {NUM_EPOCHS: 3}")

"""The published settings of WS-FCN and 1-Stage (`--cfg their.yaml --set KEY VALUE ...`) in terms of ours, as a table."""

import ast
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What a published run starts from, by --dataset.
BASES = {"pascal_voc": "configs/wsfcn_voc.yaml", "coco": "configs/wsfcn_coco.yaml"}
# Published flag -> the overrides its value goes into.
FLAGS = {
    "--exp": ("name={}",),
    "--run": ("run_dir=runs/${{name}}/{}",),
    "--resume": ("train.resume=${{run_dir}}/model/model_enc_{}.pth", "cam.checkpoint=${{run_dir}}/model/model_enc_{}.pth"),
    "--workers": ("data.workers={}",),
    "--infer-list": ("data.infer_list={}", "data.eval_list={}"),
    "--mask-output-dir": ("cam.label_dir={}", "pseudo.out_dir={}/crf"),
}
TRUNKS = ("resnet38", "resnet50", "resnet101", "vgg16")
BASELINE = "bsl"


@dataclass(frozen=True)
class Row:
    """A published key.

    Attributes:
        default: the published one, which a file that does not name the key relies on; also says of which type its values are.
        key: ours; empty: it has no effect here, or is translated together with others (`_together`).
        convert: its value to ours.
        choices: values there are; empty: any of the type.
    """

    default: Any
    key: str = ""
    convert: Callable[[Any], Any] = lambda value: value
    choices: tuple[str, ...] = ()


TABLE = {
    "NUM_GPUS": Row(1),
    "TRAIN.BATCH_SIZE": Row(20, "train.batch_size"),
    "TRAIN.NUM_EPOCHS": Row(15, "train.epochs", lambda last: last + 1),  # passes 0 to NUM_EPOCHS
    "TRAIN.NUM_WORKERS": Row(4),  # --workers counts
    "TRAIN.PRETRAIN": Row(5),
    "TRAIN.MASK_LOSS": Row(0.0),
    "DATASET.CROP_SIZE": Row(321, "wsfcn.input_size"),
    "DATASET.SCALE_FROM": Row(0.9),
    "DATASET.SCALE_TO": Row(1.0),
    "DATASET.PATH": Row("data/images"),
    "NET.BACKBONE": Row("resnet50", "model.backbone", choices=TRUNKS),
    "NET.MODEL": Row("vgg16", choices=("ae", BASELINE)),  # the default is none of the models
    "NET.PRE_WEIGHTS_PATH": Row("", "model.pretrained"),
    "NET.OPT": Row("SGD", "train.optimizer", str.lower, choices=("SGD",)),
    "NET.LR": Row(0.001, "train.lr"),
    "NET.BETA1": Row(0.5),  # of Adam
    "NET.MOMENTUM": Row(0.9, "train.momentum"),
    "NET.WEIGHT_DECAY": Row(1e-5, "train.weight_decay"),
    "NET.LOSS": Row("SoftMargin", "wsfcn.cls_loss", str.lower, choices=("SoftMargin", "Hinge")),
    "NET.MASK_LOSS_BCE": Row(1.0, "wsfcn.mask_weight"),
    "NET.BG_SCORE": Row(0.1, "wsfcn.background_score"),
    "NET.FOCAL_P": Row(3, "wsfcn.focal_power"),
    "NET.FOCAL_LAMBDA": Row(0.01, "wsfcn.focal_lambda"),
    "NET.PAMR_KERNEL": Row([1, 2, 4, 8, 12, 24], "wsfcn.pamr.dilations"),
    "NET.PAMR_ITER": Row(10, "wsfcn.pamr.iterations"),
    "NET.SG_PSI": Row(0.3, "wsfcn.gate_psi"),
    "TEST.METHOD": Row("multiscale", choices=("multiscale", "multicrop")),
    "TEST.DATA_ROOT": Row("data"),
    "TEST.SCALES": Row([1, 0.5, 1.5, 2.0]),
    "TEST.FLIP": Row(True, "cam.flip"),
    "TEST.BATCH_SIZE": Row(8),
    "TEST.PAD_SIZE": Row([1024, 1024], "cam.pad_size"),
    "TEST.CROP_SIZE": Row([448, 448]),
    "TEST.CROP_GRID_SIZE": Row([2, 2]),
    "TEST.BG_POW": Row(3),
    "TEST.FP_CUT_SCORE": Row(0.1, "cam.score_threshold"),
    "TEST.USE_GT_LABELS": Row(False, "cam.labels", lambda known: "list" if known else "predict"),
    "TEST.NUM_CLASSES": Row(21, "data.num_classes", lambda labels: labels - 1),  # 1-Stage; background is not counted here
    "MASKS.CRF.ALPHA_LOW": Row(4),
    "MASKS.CRF.ALPHA_HIGH": Row(32),
    "CUDA": Row(False),
    "DEBUG": Row(False),
    "PYTORCH_VERSION_LESS_THAN_040": Row(False),
}
# Of the data set, not of the program: a file that does not name it says nothing about it.
NO_DEFAULT = ("TEST.NUM_CLASSES",)


def translate(given: Mapping[str, Any], *, whole: bool, method: str, head_factor: float) -> tuple[list[str], list[str]]:
    """Return published settings as `key=value` overrides of ours, and the names of those given that have no effect here.

    As published, texts that are Python literals count as these, and lists and tuples are the same. A whole number may stand for
    a fraction.

    Args:
        given: dotted published key -> value.
        whole: they are a whole file, so keys it does not name have their published defaults.
        method: of the configuration that is overridden, wsfcn or onestage: NET.MODEL "ae" means that of the reading program.
        head_factor: its `train.lr_head_factor`.

    Raises:
        ValueError: for an unknown key, a value of another type, or one that is none of the choices (so is the default of
            NET.MODEL).
    """
    defaults = {key: row.default for key, row in TABLE.items() if key not in NO_DEFAULT} if whole else {}
    values = {key: _checked(key, value) for key, value in {**defaults, **given}.items()}
    ours = {row.key: row.convert(values[key]) for key, row in TABLE.items() if row.key and key in values}
    joined = _Joined(values)
    ours |= dict(_together(joined, method, head_factor))
    unused = [key for key in given if not TABLE[key].key and key not in joined.asked]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in ours.items()}
    return [f"{key}={text}" for key, text in texts.items()], unused


class _Joined:
    """Published values; knows which were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values, self.asked = values, set[str]()

    def any(self, *keys: str) -> bool:
        """Return whether one of these is given."""
        return any(key in self.values for key in keys)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.values.get(key, TABLE[key].default)


def _together(published: _Joined, method: str, head_factor: float) -> Iterator[tuple[str, Any]]:
    """Yield ours of the published keys that go into several, or several of which go into one."""
    baseline = published.any("NET.MODEL") and published["NET.MODEL"] == BASELINE
    if baseline:
        yield from {"method": BASELINE, "model.allow_missing": ["fc8.*"], "cam.label_power": 1}.items()
    if published.any("TRAIN.PRETRAIN"):
        yield from dict.fromkeys(("train.classify_epochs", "validation.from_epoch"), published["TRAIN.PRETRAIN"]).items()
    if published.any("DATASET.SCALE_FROM", "DATASET.SCALE_TO"):
        yield "wsfcn.area_scale", [published["DATASET.SCALE_FROM"], published["DATASET.SCALE_TO"]]
    if published.any("NET.BACKBONE"):
        trunk = published["NET.BACKBONE"]
        residual = trunk in ("resnet50", "resnet101")
        yield "model.output_stride", 16 if residual or (trunk == "vgg16" and method != "onestage") else 8
        yield "model.allow_unexpected", ["fc.*"] if residual else ["fc8*", "classifier*"] if trunk == "vgg16" else []
        yield "wsfcn.bias_factor", 1 if residual else 2
        yield "wsfcn.head_bias_factor", 10 if residual else 2 * head_factor
    if published.any("TEST.METHOD", "TEST.SCALES", "TEST.CROP_SIZE", "TEST.CROP_GRID_SIZE"):
        crops = published["TEST.METHOD"] == "multicrop"
        yield "cam.scales", [1.0] if crops else published["TEST.SCALES"]
        yield "cam.crop_size", published["TEST.CROP_SIZE"] if crops else []
        if crops:
            yield "cam.crop_grid", published["TEST.CROP_GRID_SIZE"]
    if published.any("TEST.BG_POW") and method == "onestage" and not baseline:
        yield "cam.label_power", published["TEST.BG_POW"]


def _checked(key: str, value: Any) -> Any:
    if key not in TABLE:
        raise ValueError(f"published key '{key}' is unknown; configs/published_wsfcn.py lists the known ones")
    row = TABLE[key]
    if isinstance(value, str) and not isinstance(row.default, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    value = list(value) if isinstance(value, tuple) else value
    kinds = (int, float) if isinstance(row.default, float) else (type(row.default),)
    if type(value) not in kinds:
        kind = type(row.default).__name__
        raise ValueError(f"published key '{key}' is {value!r}, expected a value of type {kind} such as {row.default!r}")
    if row.choices and value not in row.choices:
        raise ValueError(f"published key '{key}' is {value!r}, expected one of {', '.join(row.choices)}")
    return value

"""The published settings of WS-FCN and 1-Stage (`--cfg their.yaml --set KEY VALUE ...`) in terms of ours, as a table."""

from collections.abc import Iterator
from typing import Any

from configs.published import Joined, Published, Row
from configs.schema import Config

TRUNKS = ("resnet38", "resnet50", "resnet101", "vgg16")
BASELINE = "bsl"

ROWS = {
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


def _together(published: Joined, base: Config) -> Iterator[tuple[str, Any]]:
    """Yield ours of the joined keys; NET.MODEL "ae" means the method of the reading program, wsfcn or onestage."""
    method, head_factor = base.method, base.train.lr_head_factor
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


WSFCN = Published(
    methods=("wsfcn", "onestage", "bsl"),
    file="--cfg",
    bases={"pascal_voc": "configs/wsfcn_voc.yaml", "coco": "configs/wsfcn_coco.yaml"},
    rows=ROWS,
    flags={
        "--exp": ("name={}",),
        "--run": ("run_dir=runs/${{name}}/{}",),
        "--resume": ("train.resume=${{run_dir}}/model/model_enc_{}.pth", "cam.checkpoint=${{run_dir}}/model/model_enc_{}.pth"),
        "--workers": ("data.workers={}",),
        "--infer-list": ("data.infer_list={}", "data.eval_list={}"),
        "--mask-output-dir": ("cam.label_dir={}", "pseudo.out_dir={}/crf"),
    },
    together=_together,
    no_default=("TEST.NUM_CLASSES",),
)

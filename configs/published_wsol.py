"""The published settings of TS-CAM and CRT for localisation (`--config_file their.yaml KEY VALUE ...`) in terms of ours."""

from collections.abc import Iterator
from typing import Any

from configs.published import Joined, Published, Row
from configs.schema import Config

ROWS = {
    "--lr": Row(0.0005, "train.lr"),  # the published shell script says 5e-5; SOLVER.START_LR is never read
    "--opt": Row("adamw", "train.optimizer", choices=("adamw",)),
    "--opt-eps": Row(1e-8, choices=(1e-8,)),
    "--momentum": Row(0.9),  # of other optimisers
    "--weight-decay": Row(0.05, "train.weight_decay"),
    "--drop": Row(0.0, choices=(0.0,)),
    "--drop-path": Row(0.1, "crt_wsol.vit.drop_path"),
    "BASIC.SEED": Row(26, "seed"),
    "BASIC.BACKUP_CODES": Row(True),
    "BASIC.BACKUP_LIST": Row(["lib", "tools_cam", "configs"]),
    "BASIC.NUM_WORKERS": Row(40, "data.workers"),
    "BASIC.DISP_FREQ": Row(10, "train.log_every"),
    "BASIC.GPU_ID": Row([0]),
    "MODEL.ARCH": Row("deit_tscam_small_patch16_224", choices=("deit_tscam_small_patch16_224",)),
    "MODEL.CAM_THR": Row(0.1, "boxes.threshold"),
    "MODEL.TOP_K": Row(1),
    "DATA.DATASET": Row("CUB"),
    "DATA.DATADIR": Row("data/CUB_200_2011"),  # scripts.prepare_cub reads that folder; here data.root counts
    "DATA.NUM_CLASSES": Row(200, "data.num_classes"),
    "DATA.RESIZE_SIZE": Row(256, "crt_wsol.short_side"),
    "DATA.CROP_SIZE": Row(224),
    "DATA.IMAGE_MEAN": Row([0.485, 0.456, 0.406], "data.mean"),
    "DATA.IMAGE_STD": Row([0.229, 0.224, 0.225], "data.std"),
    "TRAIN.BATCH_SIZE": Row(64, "train.batch_size"),
    "TEST.BATCH_SIZE": Row(64, "cam.batch_size"),
    "TEST.SAVE_BOXED_IMAGE": Row(False, "boxes.vis_dir", lambda save: "${run_dir}/boxes/pictures" if save else ""),
    "TEST.TEN_CROPS": Row(False, choices=(False,)),  # published evaluation cannot use them
    "SOLVER.START_LR": Row(0.0005),
    "SOLVER.LR_STEPS": Row([30]),
    "SOLVER.NUM_EPOCHS": Row(60, "train.epochs"),
    "SOLVER.LR_FACTOR": Row(0.1, "train.decay_factor"),
    "SOLVER.MUMENTUM": Row(0.9),
    "SOLVER.WEIGHT_DECAY": Row(0.0005),
    "CUDNN.BENCHMARK": Row(False),
    "CUDNN.DETERMINISTIC": Row(True),
    "CUDNN.ENABLE": Row(True),
}


def _together(published: Joined, base: Config) -> Iterator[tuple[str, Any]]:
    """Yield ours of the joined keys."""
    if published.any("SOLVER.LR_STEPS", "SOLVER.NUM_EPOCHS"):
        steps, epochs = published["SOLVER.LR_STEPS"], published["SOLVER.NUM_EPOCHS"]
        # Counted from 1 there. One step repeats, as the published log shows; several are taken for the epochs themselves.
        yield "train.decay_epochs", [e - 1 for e in (range(steps[0], epochs + 1, steps[0]) if len(steps) == 1 else steps)]
        yield "train.keep_epochs", [epoch for epoch in base.train.keep_epochs if epoch < epochs]
    if published.any("DATA.CROP_SIZE"):
        side = published["DATA.CROP_SIZE"]
        yield from dict.fromkeys(("cam.input_size", "boxes.size"), [side, side]).items()
        yield from {f"crt_wsol.{key}": side for key in ("input_size", "vit.tile", "vit.tile_stride")}.items()


WSOL = Published(
    methods=("tscam", "crt_wsol"),
    file="--config_file",
    bases={"CUB": "configs/wsol_cub.yaml"},
    rows=ROWS,
    flags={"--resume": ("cam.checkpoint={}",)},
    together=_together,
)

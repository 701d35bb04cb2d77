"""A table of what the presets ask of a GPU, as `--estimate` of both trainings tells it one by one: arithmetic, no measurement.

python -m benchmarks.estimates [configs/<name>.yaml ...]
"""

from pathlib import Path

from configs.deeplab_schema import DeepLabConfig
from configs.schema import Config
from deeplab.settings import deeplab_schema
from deeplab.train import estimated as estimate_segmentation
from scripts.build import config_schema
from scripts.train import estimated as estimate_method
from utils.config import load_schema
from utils.errors import UserError, run_program
from utils.training.estimate import CARDS, GIBIBYTE, Estimate

PRESETS = (
    "l2g_voc", "l2g_voc_improved", "l2g_voc_resnet101", "l2g_voc_sa_cda", "l2g_coco", "wsfcn_voc", "wsfcn_voc_improved",
    "onestage_voc_resnet38", "crt_voc", "crt_voc_improved", "irn_voc", "wsol_cub", "voc12_resnet_dplv2",
    "voc12_resnet_dplv2_improved", "coco_resnet_dplv2", "voc12_coco_pretrain", "voc12_imageNet_pretrain", "voc12_cdl_improved",
)  # fmt: skip
COLUMNS = ("preset", "precision", "images", "parameters", "peak", "kept activations", "PFLOP", *CARDS)


def main(argv: list[str]) -> None:
    """Print a row a configuration."""
    print("|", " | ".join(COLUMNS), "|")
    print("|" + " --- |" * len(COLUMNS))
    for path in argv or [f"configs/{name}.yaml" for name in PRESETS]:
        print("|", " | ".join(row(Path(path).stem, estimated(path))), "|", flush=True)


def estimated(path: str) -> Estimate:
    """Return the estimate of either stage's configuration."""
    try:
        cfg: Config = load_schema(path, None, config_schema)
    except UserError:  # of the other stage, or of none
        stage: DeepLabConfig = load_schema(path, None, deeplab_schema)
        return estimate_segmentation(stage)
    return estimate_method(cfg)


def row(name: str, found: Estimate) -> list[str]:
    """Return the cells of a row; hours are left out where the list is not there."""
    memory = found.memory
    hours = ["–" if found.note else f"{found.seconds(card) / 3600:.1f}" for card in CARDS.values()]
    return [
        f"`{name}`",
        found.precision,
        str(found.images),
        f"{found.parameters / 1e6:.0f}",
        f"{memory.peak / GIBIBYTE:.1f}",
        f"{memory.activations / GIBIBYTE:.1f}",
        "–" if found.note else f"{found.flops / 1e15:.0f}",
        *hours,
    ]


if __name__ == "__main__":
    run_program(main)

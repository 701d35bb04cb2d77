"""Draw what a finished run made of some pictures: image, saliency, CAMs, pseudo label, predictions, ground truth.

    python -m scripts.demo_pictures --config configs/l2g_demo.yaml name=demo_l2g [key=value ...]

Writes <run_dir>/pictures/pipeline_<n>.png, a few images a sheet.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from scripts.build import parse_args
from utils.cams.store import cam_path
from utils.data.classes import resolve_class_names
from utils.data.images import read_cam, read_image, read_label_map, read_saliency, write_png
from utils.data.lists import read_id_list, read_label_list
from utils.drawing.overlays import PipelineSample, pipeline_sheet
from utils.errors import run_program

SHEETS, PER_SHEET = 3, 6
LABEL_FOLDER = "pseudo_saliency"
# Predictions of the segmentation stage, where there are any, below the run's folder.
PREDICTIONS = {"DeepLab": "deeplab/predictions/*/*/train", "DeepLab + CRF": "deeplab/predictions/*/*/train_crf"}


def main(argv: list[str]) -> None:
    """Parse the command line and draw."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> list[Path]:
    """Write the sheets for images spread evenly over `data.eval_list`; return their paths."""
    labels = read_label_list(cfg.data.label_list, cfg.data.num_classes)
    ids = read_id_list(cfg.data.eval_list)
    names = resolve_class_names(cfg.data.class_names, cfg.data.num_classes)
    step = max(1, len(ids) // (SHEETS * PER_SHEET))
    chosen = ids[::step][: SHEETS * PER_SHEET]
    written = []
    for number in range(0, len(chosen), PER_SHEET):
        samples = [_sample(cfg, name, labels[name]) for name in chosen[number : number + PER_SHEET]]
        path = Path(cfg.run_dir) / "pictures" / f"pipeline_{number // PER_SHEET}.png"
        write_png(path, pipeline_sheet(samples, names))
        written.append(path)
    return written


def _sample(cfg: Config, name: str, classes: tuple[int, ...]) -> PipelineSample:
    root = Path(cfg.data.root)
    image = read_image(root / cfg.data.image_dir / f"{name}.jpg")
    size = image.size
    cams = {k: read_cam(cam_path(Path(cfg.cam.dir), name, k), size) for k in classes}
    return PipelineSample(
        image_id=name,
        image=np.array(image),
        saliency=np.array(read_saliency(root / cfg.data.saliency_dir / f"{name}.png", size)),
        cams=cams,
        pseudo_label=read_label_map(Path(cfg.run_dir) / LABEL_FOLDER / f"{name}.png", cfg.data.num_classes, size),
        predictions=_predictions(cfg, name, size),
        ground_truth=read_label_map(root / cfg.data.label_dir / f"{name}.png", cfg.data.num_classes, size),
    )


def _predictions(cfg: Config, name: str, size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    found = {}
    for caption, pattern in PREDICTIONS.items():
        for folder in sorted(Path(cfg.run_dir).glob(pattern)):
            path = folder / f"{name}.png"
            if path.exists():
                found[caption] = read_label_map(path, cfg.data.num_classes, size)
    return found


if __name__ == "__main__":
    run_program(main)

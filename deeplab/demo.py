"""Show what a network sees in pictures of yours, or in a camera's.

    python -m deeplab demo --config-path configs/voc12_resnet_dplv2.yaml --image-path photo.jpg [--crf] [key=value ...]
    python -m deeplab demo --config-path configs/voc12_resnet_dplv2.yaml --image-path folder/ --out overlays
    python -m deeplab demo --config-path configs/voc12_resnet_dplv2.yaml --camera-id 0

Writes <out>/<name>.png (classes over the picture, with a legend) and <out>/<name>_labels.png (palette PNG of class indices).
A camera (or a video file instead of its number) is shown in a window where there is a screen and an OpenCV with windows (q
quits); elsewhere its pictures are written as frame_<n>.png. --model-path: weights; without it this experiment's
checkpoint_final.pth. The long side of pictures becomes image.size.test.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from configs.deeplab_schema import DeepLabConfig, ImageConfig
from deeplab.crf import refined_labels
from deeplab.evaluation import build_configured, require_weights
from deeplab.inference import load_network, predict
from deeplab.labelling import Labelling
from deeplab.network import MultiScale
from deeplab.outputs import final_weights
from deeplab.settings import parse_args
from utils.data.classes import BACKGROUND, class_names, palette
from utils.data.images import read_image, write_png
from utils.data.transforms import to_input
from utils.drawing.overlays import label_overlay
from utils.errors import UserError
from utils.runtime.log import progress
from utils.runtime.processes import Dist, setup

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DEFAULT_FRAMES = 10

Picture = NDArray[np.uint8]


class Demo:
    """A loaded network that labels pictures.

    Args:
        cfg: configuration.
        weights: checkpoint.
        place: where to compute.
        crf: refine as the configuration says.
    """

    def __init__(self, cfg: DeepLabConfig, weights: Path, place: Dist, *, crf: bool) -> None:
        self.cfg, self.place = cfg, place
        self.network: MultiScale = load_network(cfg, weights, place)
        self.labelling = Labelling(cfg.dataset.num_classes)
        # The picture itself, as published of this command, where that of the crf command saw another.
        seen = replace(cfg, crf=replace(cfg.crf, image="true"))
        self.refiner = build_configured(seen, place) if crf else None
        self.names = [name for value, name in enumerate(class_names(cfg.dataset)) if value != BACKGROUND]

    def label(self, picture: Picture) -> tuple[Picture, NDArray[np.uint8]]:
        """Return the (H, W, 3) RGB picture at test size, and its (H, W) label map."""
        small = resize_long_side(picture, self.cfg.image.size.test)
        logits = predict(self.cfg, self.network, demo_input(small, self.cfg.image)[None], self.place)[0]
        if self.refiner is None:
            return small, self.labelling.labels("", logits, (small.shape[0], small.shape[1])).cpu().numpy()
        return small, refined_labels(self.refiner, logits.float().cpu(), small, self.labelling)

    def overlay(self, picture: Picture) -> tuple[Picture, NDArray[np.uint8]]:
        """Return the overlay with its legend, and the label map."""
        small, labels = self.label(picture)
        return label_overlay(small, labels, self.names), labels


def main(argv: list[str]) -> None:
    """Parse the command line and label pictures."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--image-path", type=Path)
    parser.add_argument("-m", "--model-path", type=Path)
    parser.add_argument("--camera-id")
    parser.add_argument("--frames", type=int, default=DEFAULT_FRAMES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--crf", action="store_true")
    known, rest = parser.parse_known_args(argv)
    cfg = parse_args(rest, __doc__ or "")
    if (known.image_path is None) == (known.camera_id is None):
        raise UserError("give either --image-path FILE_OR_FOLDER or --camera-id NUMBER")
    weights = require_weights(known.model_path or final_weights(cfg))
    out = known.out or Path(cfg.exp.output_dir, "demo", cfg.exp.id)
    with setup(cfg) as place:
        demo = Demo(cfg, weights, place, crf=known.crf)
        if known.image_path is not None:
            written = run(demo, find_pictures(known.image_path), out)
            print(f"{len(written)} overlays in {out}")
        else:
            run_camera(demo, known.camera_id, out, known.frames)


def run(demo: Demo, pictures: list[Path], out: Path) -> list[Path]:
    """Write overlays and label maps of picture files; return the overlays' paths. Raises UserError for an unreadable one."""
    written = []
    for path in progress(pictures, len(pictures), "pictures"):
        overlay, labels = demo.overlay(np.asarray(read_image(path)))
        written.append(out / f"{path.stem}.png")
        write_png(written[-1], overlay)
        write_png(out / f"{path.stem}_labels.png", labels, palette())
    return written


def run_camera(demo: Demo, camera: str, out: Path, frames: int) -> None:
    """Label a camera's pictures, in a window or `frames` PNG files. Raises UserError when the camera gives none."""
    shown = has_window()
    count = 0
    for number, picture in enumerate(camera_pictures(camera)):
        count = number + 1
        overlay, _ = demo.overlay(picture)
        if shown:
            cv2.imshow("segmentation (q quits)", overlay[:, :, ::-1])
            if cv2.waitKey(1) & 0xFF == ord("q"):
                break
        else:
            write_png(out / f"frame_{number:04d}.png", overlay)
            if count == frames:
                break
    if count == 0:
        raise UserError(f"--camera-id {camera} gives no picture; give the number of a connected camera or a video file")
    print(f"{count} pictures" + ("" if shown else f" in {out}"))


def camera_pictures(camera: str) -> Iterator[Picture]:
    """Yield RGB pictures (H, W, 3) of camera number `camera`, or of a video file."""
    capture = cv2.VideoCapture(int(camera) if camera.isdecimal() else camera)
    try:
        while True:
            there, picture = capture.read()
            if not there:
                return
            yield np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)
    finally:
        capture.release()


def has_window() -> bool:
    """Return whether pictures can be shown: a screen, and an OpenCV built with windows."""
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    gui = next((line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "GUI: NONE")
    return screen and not gui.strip().endswith("NONE")


def find_pictures(path: Path) -> list[Path]:
    """Return the picture itself, or all pictures of a folder by name. Raises UserError when there is none."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"folder {path} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def resize_long_side(picture: Picture, side: int) -> Picture:
    """Scale a picture so that its long side is `side` pixels, up or down (published: OpenCV bilinear, sides rounded)."""
    factor = side / max(picture.shape[:2])
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR), np.uint8)


def demo_input(picture: Picture, image: ImageConfig) -> torch.Tensor:
    """Return the network's input (3, H, W) of an RGB picture."""
    pixels = picture[:, :, ::-1] if image.order == "bgr" else picture
    return to_input(pixels.astype(np.float32), image)

"""What a CAM folder already holds: which images are finished, and from which network and settings they are."""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.schema import Config
from utils.cam_files import LabelledId, cam_path
from utils.errors import UserError
from utils.files import write_text_atomic

SOURCE_NAME = "source.json"
READ_BYTES = 1 << 24


def describe_source(cfg: Config) -> dict[str, Any]:
    """Return what CAMs depend on: the checkpoint's content and the settings of the `cam` and `data` sections."""
    cam = cfg.cam
    return {
        "checkpoint": cam.checkpoint,
        "crc32": _checksum(Path(cam.checkpoint)),
        "network": cam.network,
        "scales": list(cam.scales),
        "flip": cam.flip,
        "activation": cam.activation,
        "labels": cam.labels,
        "score_threshold": cam.score_threshold if cam.labels == "predict" else None,
        "label_threshold": cam.label_threshold if cam.label_dir else None,
        "image_dir": str(Path(cfg.data.root) / cfg.data.image_dir),
        "mean": list(cfg.data.mean),
        "std": list(cfg.data.std),
    }


def claim(cfg: Config, source: dict[str, Any], images: Iterable[str]) -> None:
    """Make sure what `cam.dir` holds comes from `source`, then note `source` there.

    With `cam.overwrite` the old CAMs and label maps of `images` are removed first, so that a run that is interrupted and
    continued without `cam.overwrite` does not keep some of them.

    Raises:
        UserError: when the folder's CAMs come from another checkpoint or other settings.
    """
    folder = Path(cfg.cam.dir)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.cam.overwrite:
        _remove(folder, Path(cfg.cam.label_dir) if cfg.cam.label_dir else None, set(images))
    else:
        _check_same(folder, source)
    write_text_atomic(folder / SOURCE_NAME, json.dumps(source, indent=2) + "\n")


def unfinished(cfg: Config, images: Iterable[LabelledId]) -> list[LabelledId]:
    """Return the images some file is missing of.

    An image is finished when the CAMs of all its classes are there, and its label map and maps for refinement where such are
    written. Where classes are predicted only the label map, written last, can tell; without label maps all are done again.
    """
    cams = _names(Path(cfg.cam.dir))
    label_dir = Path(cfg.cam.label_dir) if cfg.cam.label_dir else None
    labels = set() if label_dir is None else _names(label_dir)
    refined = _names(Path(cfg.cam.refine_dir)) if cfg.cam.refine_dir else None
    predicting = cfg.cam.labels == "predict"

    def finished(image_id: str, classes: tuple[int, ...]) -> bool:
        if predicting and label_dir is None:
            return False
        if label_dir is not None and f"{image_id}.png" not in labels:
            return False
        if refined is not None and f"{image_id}.npz" not in refined:
            return False
        return predicting or all(cam_path(Path(), image_id, k).name in cams for k in classes)

    return [(image_id, classes) for image_id, classes in images if not finished(image_id, classes)]


def _check_same(folder: Path, source: dict[str, Any]) -> None:
    path = folder / SOURCE_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); use cam.overwrite=true or another cam.dir") from error
    found = {"activation": "relu", **found}  # folders from before there was a choice do not say it
    # The same weights and pictures under another name are the same source, and label maps may be added or left out.
    ignored = {"checkpoint", "image_dir"}
    if None in (source["label_threshold"], found.get("label_threshold")):
        ignored.add("label_threshold")
    other = [key for key in source if key not in ignored and found.get(key) != source[key]]
    if other:
        raise UserError(
            f"{folder} holds CAMs made with another {other[0] if other[0] != 'crc32' else 'checkpoint'} (see {path}); "
            "use cam.overwrite=true to replace them or another cam.dir to keep them"
        )


def _remove(folder: Path, label_dir: Path | None, images: set[str]) -> None:
    for name in _names(folder):
        image_id, _, class_index = name.removesuffix(".png").rpartition("_")
        if name.endswith(".png") and image_id in images and class_index.isdigit():
            (folder / name).unlink()
    if label_dir is not None:
        for image_id in images:
            (label_dir / f"{image_id}.png").unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {entry.name for entry in os.scandir(folder)}


def _checksum(path: Path) -> int:
    """Return the file's CRC-32: a gigabyte a second."""
    value = 0
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                value = zlib.crc32(block, value)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror}); train first or set cam.checkpoint") from error
    return value

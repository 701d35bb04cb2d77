"""The folder of CAM PNGs two stages exchange: names, and which images and classes to expect in it."""

import os
import zipfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from utils.cams.dictionaries import CELL, SUFFIXES, Dictionary, classes_of, read_dictionary
from utils.data.classes import palette
from utils.data.folder import DataFolder, labels_of
from utils.data.images import MAX_GREY, is_whole_png, read_cam, write_png
from utils.data.lists import read_id_list
from utils.errors import UserError
from utils.files import atomic_path, remove_leftovers, weight_file
from utils.runtime.parallel import THREADS, BoundedPool, HostCopy
from utils.runtime.provenance import claim_folder, read_source, write_source

if TYPE_CHECKING:
    from utils.cams.inference import ImageCams

# An image id and its present classes, 0-based ascending.
LabelledId = tuple[str, tuple[int, ...]]


def cam_path(folder: Path, image_id: str, class_index: int) -> Path:
    """Return `<folder>/<id>_<class>.png`, class 0-based."""
    return folder / f"{image_id}_{class_index}.png"


def npz_path(folder: Path, image_id: str) -> Path:
    """Return `<folder>/<id>.npz`, all maps of an image (`cam.format=npz`)."""
    return folder / f"{image_id}.npz"


def map_path(folder: Path, image_id: str, class_index: int) -> Path:
    """Return the file that holds a class's map, of any format."""
    return dictionary_path(folder, image_id) or cam_path(folder, image_id, class_index)


def dictionary_path(folder: Path, image_id: str) -> Path | None:
    """Return the file that holds all maps of an image (`utils.cams.dictionaries`), None where there is none."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{image_id}{suffix}").exists()), None)


def has_cam(names: set[str], image_id: str, class_index: int) -> bool:
    """Return whether a folder of file `names` holds this map in any format."""
    return any(f"{image_id}{suffix}" in names for suffix in SUFFIXES) or cam_path(Path(), image_id, class_index).name in names


def read_cams(folder: Path, image_id: str, classes: Sequence[int], size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Return an image's maps (H, W), 8-bit, of any format; those that are not are rounded.

    Args:
        folder: `cam.dir`, or that of another program.
        image_id, classes: whose; 0-based.
        size: (W, H) they must have.

    Raises:
        UserError: naming a file that is missing, damaged or of another size.
    """
    if dictionary_path(folder, image_id) is not None:
        return [quantised(cam) for cam in read_scores(folder, image_id, classes, size)[0]]
    return [read_cam(cam_path(folder, image_id, k), size) for k in classes]


def quantised(cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return maps of scores in [0, 1] as grey levels."""
    return np.rint(cam.clip(0, 1) * MAX_GREY).astype(np.uint8)


def read_scores(
    folder: Path, image_id: str, classes: Sequence[int], size: tuple[int, int]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
    """Return an image's maps (H, W) in [0, 1], as exactly as they are stored, and its background mask where there is one.

    Arguments and errors as of `read_cams`.
    """
    if (path := dictionary_path(folder, image_id)) is not None:
        found = read_dictionary(path)
        return [found.full[k] for k in _places(path, found, classes, size)], found.background
    return [read_cam(cam_path(folder, image_id, k), size) / np.float32(MAX_GREY) for k in classes], None


def read_small(folder: Path, image_id: str, classes: Sequence[int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return an image's maps (K, ceil(H / 4), ceil(W / 4)) in [0, 1]: as stored where the file has such, else means of pixels.

    Arguments and errors as of `read_cams`.
    """
    height, width = (-(-side // CELL) for side in size[::-1])
    if (path := dictionary_path(folder, image_id)) is not None:
        found = read_dictionary(path)
        places = _places(path, found, classes, size)
        if found.small is not None:
            if found.small.shape[1:] != (height, width):
                raise UserError(
                    f"{path}: cam has {found.small.shape[1:]} cells, expected {(height, width)} for a picture of {size[::-1]} "
                    "pixels (height, width); make the CAMs of these pictures"
                )
            return found.small[list(places)]
    full = np.stack(read_scores(folder, image_id, classes, size)[0])
    padded = np.pad(full, ((0, 0), (0, height * CELL - size[1]), (0, width * CELL - size[0])), mode="edge")
    means: NDArray[np.float32] = padded.reshape(-1, height, CELL, width, CELL).mean(axis=(2, 4), dtype=np.float32)
    return means


def read_native(
    folder: Path, image_id: str, classes: Sequence[int]
) -> tuple[dict[int, NDArray[np.float32]], NDArray[np.float32] | None]:
    """Return class -> map (h, w) in [0, 1] as stored, whatever its size, and the logits (C,) of all classes if they are there.

    Raises:
        UserError: naming a file that is missing or damaged, or lacks one of `classes`.
    """
    if (path := dictionary_path(folder, image_id)) is None:
        return {k: read_cam(cam_path(folder, image_id, k)) / np.float32(MAX_GREY) for k in classes}, None
    found = read_dictionary(path)
    maps = dict(zip(found.classes, found.full, strict=True))
    if missing := [k for k in classes if k not in maps]:
        raise UserError(
            f"{path} holds classes {sorted(maps)}, expected {missing} as well; make it anew with cam.overwrite=true"
        )
    return maps, found.scores


def _places(path: Path, found: Dictionary, classes: Sequence[int], size: tuple[int, int]) -> list[int]:
    """Return where the maps of `classes` are in a file, checked to be there and of `size` (W, H)."""
    if any(k not in found.classes for k in classes) or found.full.shape[1:] != size[::-1]:
        told = f"classes {list(found.classes)} of {found.full.shape[1:]} pixels"
        raise UserError(f"{path} holds {told}, expected classes {list(classes)} of {size[::-1]} pixels (height, width)")
    return [found.classes.index(k) for k in classes]


def read_labelled_ids(cfg: Config, cam_dir: Path) -> list[LabelledId]:
    """Return the ids of `data.eval_list` with their classes, joined by id; checks that every CAM file is there.

    (The published programs joined by line number with a fixed list, which paired images with other images' labels.)
    Classes are those of `utils.data.folder.labels_of`, or with `cam.labels=predict` come from the CAM files themselves.

    Raises:
        UserError: for a list that cannot be used, an id without a line in the label list, or missing CAM files.
    """
    if cfg.cam.labels == "predict":
        found = classes_on_disk(cam_dir, cfg.data.num_classes)
        return [(image_id, found.get(image_id, ())) for image_id in read_id_list(cfg.data.eval_list)]
    tasks = list(labels_of(cfg.data, cfg.data.eval_list).items())
    _check_cams(cam_dir, tasks, file_names(cam_dir))
    return tasks


def classes_on_disk(folder: Path, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return id -> ascending classes (0-based) of a folder's CAM files. Raises UserError when it cannot be read."""
    found: dict[str, list[int]] = {}
    for name in file_names(folder):
        if name.endswith(SUFFIXES):
            found[Path(name).stem] = [k for k in classes_of(folder / name) if k < num_classes]
            continue
        image_id, _, class_index = name.removesuffix(".png").rpartition("_")
        if name.endswith(".png") and class_index.isascii() and class_index.isdigit() and int(class_index) < num_classes:
            found.setdefault(image_id, []).append(int(class_index))
    return {image_id: tuple(sorted(found[image_id])) for image_id in sorted(found)}


def chunked(tasks: Sequence[LabelledId], size: int) -> list[tuple[LabelledId, ...]]:
    """Cut `tasks` into runs of `size` (the last may be shorter), the portions worker processes take."""
    return [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def file_names(folder: Path) -> set[str]:
    """Return the names of a folder's files. Raises UserError when it cannot be read."""
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(
            f"CAM folder {folder} cannot be read ({error.strerror}); run scripts.make_cams first or set the cam_dir key"
        ) from error


def _check_cams(folder: Path, tasks: Sequence[LabelledId], names: set[str]) -> None:
    missing = [cam_path(folder, i, c) for i, classes in tasks for c in classes if not has_cam(names, i, c)]
    if missing:
        raise UserError(
            f"CAM file {missing[0]} is missing ({len(missing)} missing in all); run scripts.make_cams on a data.infer_list "
            "that covers data.eval_list"
        )


READ_BYTES = 1 << 24


def describe_source(cfg: Config) -> dict[str, Any]:
    """Return what CAMs depend on: the checkpoint's content and the settings of the `cam` and `data` sections."""
    cam = cfg.cam
    return {
        "checkpoint_path": cam.checkpoint,
        "checkpoint": checksum(Path(cam.checkpoint)),
        "network": cam.network,
        "scales": list(cam.scales),
        "flip": cam.flip,
        "activation": cam.activation,
        "format": cam.format,
        "merge": cam.merge,
        "pad_size": list(cam.pad_size),
        "crops": [list(cam.crop_size), list(cam.crop_grid)] if cam.crop_size else None,
        "labels": cam.labels,
        "score_threshold": [cam.score_threshold, cam.score_views] if cam.labels == "predict" else None,
        "top": cam.top,
        "size": [cam.size, list(cam.input_size)],
        "label_threshold": (cam.label_power or cam.label_threshold) if cam.label_dir else None,
        "image_dir": ", ".join(map(str, DataFolder.of(cfg.data).image_dirs)),
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
    for beside in filter(None, (cfg.cam.label_dir, cfg.cam.refine_dir)):
        remove_leftovers(Path(beside))
    if cfg.cam.overwrite:
        _remove(folder, Path(cfg.cam.label_dir) if cfg.cam.label_dir else None, set(images))
        write_source(folder, source)
        return
    # The same weights and pictures under another name are the same source, and label maps may be added or left out.
    ignored = {"checkpoint_path", "image_dir", *({"top", "size"} - (read_source(folder) or source).keys())}
    if None in (source["label_threshold"], (read_source(folder) or source).get("label_threshold")):
        ignored.add("label_threshold")
    claim_folder(folder, source, "cam.dir", ignored=ignored)


def unfinished(cfg: Config, images: Iterable[LabelledId]) -> list[LabelledId]:
    """Return the images some file is missing of, or cannot be read.

    An image is finished when the CAMs of all its classes are there, and its label map and maps for refinement where such are
    written. Of PNGs all sums are checked, of maps for refinement, which are large, only the end. Where classes are predicted
    only the label map, written last, can tell; without label maps all are done again.
    """
    cam_dir = Path(cfg.cam.dir)
    cams = _names(cam_dir)
    label_dir = Path(cfg.cam.label_dir) if cfg.cam.label_dir else None
    labels = set() if label_dir is None else _names(label_dir)
    refined = _names(Path(cfg.cam.refine_dir)) if cfg.cam.refine_dir else None
    predicting, npz = cfg.cam.labels == "predict", cfg.cam.format == "npz"

    def finished(image_id: str, classes: tuple[int, ...]) -> bool:
        if predicting and label_dir is None and not npz:
            return False
        if label_dir is not None and not (f"{image_id}.png" in labels and is_whole_png(label_dir / f"{image_id}.png")):
            return False
        refine_path = Path(cfg.cam.refine_dir) / f"{image_id}.npz"
        if refined is not None and not (refine_path.name in refined and zipfile.is_zipfile(refine_path)):
            return False
        if npz:
            path = npz_path(cam_dir, image_id)
            return path.name in cams and zipfile.is_zipfile(path)
        return predicting or are_whole([cam_path(cam_dir, image_id, k) for k in classes], cams)

    return [(image_id, classes) for image_id, classes in images if not finished(image_id, classes)]


def are_whole(paths: Sequence[Path], names: Collection[str]) -> bool:
    """Return whether PNGs are all among the `names` of their folder's files and undamaged."""
    return all(path.name in names for path in paths) and all(map(is_whole_png, paths))


def _remove(folder: Path, label_dir: Path | None, images: set[str]) -> None:
    for name in _names(folder):
        image_id, _, class_index = name.removesuffix(".png").rpartition("_")
        own_map = name.endswith(".png") and image_id in images and class_index.isdigit()
        if own_map or (name.endswith(".npz") and name.removesuffix(".npz") in images):
            (folder / name).unlink()
    if label_dir is not None:
        for image_id in images:
            (label_dir / f"{image_id}.png").unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {entry.name for entry in os.scandir(folder)}


def checksum(path: Path) -> int:
    """Return the file's CRC-32: a gigabyte a second."""
    value = 0
    try:
        with weight_file(path).open("rb") as file:
            while block := file.read(READ_BYTES):
                value = zlib.crc32(block, value)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror}); train first or set cam.checkpoint") from error
    return value


class CamWriter:
    """Write each image's maps; a context manager that ends when everything is on disk.

    The copy from the device is only queued by `write`; a background thread waits for it, so the network never does.

    Args:
        cam_dir: folder of the maps; must exist.
        label_dir: folder of `<id>.png` label maps (palette PNGs), or None to write none; must exist.
        npz: one float32 `<id>.npz` an image instead of 8-bit `<id>_<class>.png`.
        refine_dir: folder of the maps for refinement networks, where images have such.
        threads: encoder threads (OpenCV's encoder runs outside Python's lock).
    """

    def __init__(
        self,
        cam_dir: Path,
        label_dir: Path | None,
        *,
        npz: bool = False,
        refine_dir: Path | None = None,
        threads: int = THREADS,
    ) -> None:
        self.cam_dir, self.label_dir, self.npz, self.refine_dir = cam_dir, label_dir, npz, refine_dir
        self._pool = BoundedPool(threads)

    def write(self, image_id: str, image: "ImageCams") -> None:
        """Queue one image: maps (K, H, W) in [0, 1], the label map and maps for refinement, where it has such, on any device.

        Raises:
            Exception: whatever an earlier image's writing raised.
        """
        from utils.cams.merge import quantise_cams  # here: worker processes import this module and need no torch

        parts = {"cam": image.cams if self.npz else quantise_cams(image.cams)}
        if self.npz and image.small is not None:  # what IRNet's walk begins with, by its names
            parts = {"cam": image.small, "high_res": image.cams}
        if self.npz and image.background is not None:
            parts["background"] = image.background
        if self.npz and image.scores is not None:
            parts["scores"] = image.scores
        if image.labels is not None:
            parts["labels"] = image.labels
        if image.refine is not None:
            parts |= {"low": image.refine.low, "high": image.refine.high}
        copy = HostCopy(list(parts.values()))
        self._pool.submit(self._encode, image_id, image.classes, list(parts), copy)

    def __enter__(self) -> "CamWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.__exit__(kind, error, trace)

    def _encode(self, image_id: str, classes: tuple[int, ...], names: list[str], copy: HostCopy) -> None:
        from utils.cams.merge import SeedMaps, write_seed_maps

        parts = dict(zip(names, copy.wait(), strict=True))
        if self.refine_dir is not None and "low" in parts:  # before the maps, which say that the image is done
            write_seed_maps(self.refine_dir / f"{image_id}.npz", classes, SeedMaps(parts.pop("low"), parts.pop("high")))
        arrays = {name: part.numpy() for name, part in parts.items()}
        labels = arrays.pop("labels", None)
        if self.npz:
            with atomic_path(npz_path(self.cam_dir, image_id), sync=False) as temporary:
                np.savez(temporary, allow_pickle=False, classes=np.array(classes, np.int64), **arrays)
        else:
            for class_index, cam in zip(classes, arrays["cam"], strict=True):
                _write_grey_png(cam_path(self.cam_dir, image_id, class_index), cam)
        # Last: the label map then says that the image is complete.
        if self.label_dir is not None and labels is not None:
            write_png(self.label_dir / f"{image_id}.png", labels, palette())


def _write_grey_png(path: Path, values: NDArray[Any]) -> None:
    """Encode with OpenCV: several times faster than Pillow on CAMs, and without Python's lock."""
    _, encoded = cv2.imencode(".png", values)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())

"""Read the official PASCAL VOC 2012 and SBD downloads: splits, label maps (.png, .mat) and XML annotations."""

import json
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from utils.data.classes import IGNORE, VOC_CLASSES
from utils.data.images import read_label_map
from utils.data.lists import read_id_list
from utils.errors import UserError, damage, import_optional
from utils.files import only_file, parse_json, write_text_atomic
from utils.runtime.log import progress

# Parts of a member's path -> whether it is needed.
Wanted = Callable[[Sequence[str]], bool]


def open_source(path: Path, unpack_to: Path, wanted: Wanted) -> Path:
    """Return `path` itself when it is a folder; of a tar archive unpack the wanted files and return their folder.

    Unpacking continues where an interrupted one stopped and is not repeated for the same archive.

    Args:
        path: folder or .tar, .tar.gz, .tgz file.
        unpack_to: folder for an archive's files; they keep their paths inside the archive.
        wanted: which members to unpack.

    Raises:
        UserError: when `path` is neither, the archive is damaged, or the disk is full.
    """
    if path.is_dir():
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist; give the downloaded tar archive or the unpacked folder")
    if not tarfile.is_tarfile(path):
        raise UserError(f"{path} is neither a folder nor a tar archive; download it again or unpack it and give the folder")
    mark = unpack_to / "unpacked.json"
    stamp = {"archive": path.name, "size": path.stat().st_size, "time": path.stat().st_mtime_ns}
    if _read(mark) != stamp:
        _unpack(path, unpack_to, wanted)
        write_text_atomic(mark, json.dumps(stamp) + "\n")
    return unpack_to


def find_folder(start: Path, candidates: Sequence[str], needs: Sequence[str], what: str) -> Path:
    """Return the first of `start / candidate` that has all entries of `needs`. Raises UserError when none has."""
    for candidate in candidates:
        folder = start / candidate
        if all((folder / name).exists() for name in needs):
            return folder
    raise UserError(f"{start} is no {what}: expected {' and '.join(needs)} in it; give the folder that holds them")


def _read(mark: Path) -> object:
    try:
        return parse_json(only_file(mark).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _unpack(path: Path, into: Path, wanted: Wanted) -> None:
    """Unpack the wanted files that are not there yet; a file a killed run left half written has another size."""
    try:
        with tarfile.open(only_file(path)) as archive:
            members = [m for m in archive if m.isfile() and wanted(PurePosixPath(m.name).parts)]
            missing = [m for m in members if not (into / m.name).exists() or (into / m.name).stat().st_size != m.size]
            # The filter refuses members that would leave the folder.
            archive.extractall(into, progress(missing, len(missing), f"unpack {path.name}"), filter="data")
    except tarfile.FilterError as error:
        raise UserError(f"{path} is no official archive: {error}; download it again") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be unpacked into {into} ({error}); is it complete, and the disk not full?") from error


_VOC_FOLDERS = ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets")
_CLASS_INDEX = {name: k for k, name in enumerate(VOC_CLASSES)}


@dataclass(frozen=True)
class VocSource:
    """Where the official files are.

    Attributes:
        root: folder with JPEGImages, SegmentationClass, ImageSets (VOCdevkit/VOC2012).
        train: ids of the segmentation train list (1464 of them).
        val: ids of the segmentation val list (1449).
        masks: id -> label map: VOC's own PNG where there is one (it is finer and marks borders), else SBD's .mat.
        sbd: id -> SBD's label map, of all its images.
    """

    root: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    masks: dict[str, Path]
    sbd: dict[str, Path]

    @property
    def train_aug(self) -> list[str]:
        """Return the augmented training ids, ascending: SBD (its train and val) and VOC train, without VOC val."""
        return sorted({*self.masks} - {*self.val})

    def image(self, image_id: str) -> Path:
        """Return the photo's path."""
        return self.root / "JPEGImages" / f"{image_id}.jpg"

    def annotation(self, image_id: str) -> Path:
        """Return the XML annotation's path."""
        return self.root / "Annotations" / f"{image_id}.xml"


def open_voc(voc: Path, sbd: Path | None, unpack_to: Path) -> VocSource:
    """Find the official files in folders or archives.

    Args:
        voc: VOCdevkit/VOC2012, a folder above it, or VOCtrainval_11-May-2012.tar.
        sbd: benchmark_RELEASE, a folder above or inside it, benchmark.tgz, or a folder of masks <id>.png that somebody
            converted before; None: VOC's own masks only.
        unpack_to: folder archives are unpacked to.

    Raises:
        UserError: when the files are not there.
    """
    start = open_source(voc, unpack_to / "voc", _wanted_of_voc)
    places = (".", "VOC2012", "VOCdevkit/VOC2012", "TrainVal/VOCdevkit/VOC2012")
    root = find_folder(start, places, ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"), "VOC 2012 folder")
    train, val = (tuple(read_id_list(root / "ImageSets" / "Segmentation" / f"{name}.txt")) for name in ("train", "val"))
    augmented = {} if sbd is None else _augmented_masks(open_source(sbd, unpack_to / "sbd", _wanted_of_sbd))
    own = {i: root / "SegmentationClass" / f"{i}.png" for i in (*train, *val)}
    return VocSource(root, train, val, {**augmented, **own}, augmented)


def _augmented_masks(start: Path) -> dict[str, Path]:
    pngs = {path.stem: path for path in sorted(start.glob("*.png"))}
    if pngs:
        return pngs
    folder = find_folder(start, (".", "dataset", "benchmark_RELEASE/dataset"), ("cls",), "SBD folder") / "cls"
    masks = {path.stem: path for path in sorted(folder.glob("*.mat"))}
    if not masks:
        raise UserError(f"{folder} holds no .mat files; give the complete SBD download (benchmark_RELEASE)")
    lists = [path for name in ("train.txt", "val.txt") if (path := folder.parent / name).is_file()]
    if missing := [name for path in lists for name in read_id_list(path) if name not in masks]:
        raise UserError(
            f"{folder} lacks {missing[0]}.mat, which SBD lists ({len(missing)} such files); give the complete download"
        )
    return masks


def read_sbd_mask(path: Path) -> NDArray[np.uint8]:
    """Return the label map (H, W) uint8 of an SBD class file: 0 background, 1..20; SBD marks no pixel as ignored.

    Raises:
        UserError: when scipy is missing, or the file is damaged or holds something else.
    """
    scipy_io = import_optional("scipy.io", "scipy", "reading SBD's .mat files")
    try:
        mask = np.asarray(scipy_io.loadmat(only_file(path))["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise UserError(f"{path} is no SBD class file ({damage(error)}); download SBD again") from error
    highest = len(VOC_CLASSES)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer) or mask.min() < 0:
        raise UserError(f"{path}: Segmentation is {mask.dtype} of shape {mask.shape}, expected a map of 0 to {highest}")
    if ((mask > highest) & (mask != IGNORE)).any():
        raise UserError(f"{path} holds the value {mask.max()}, expected 0 to {highest}; download SBD again")
    return mask.astype(np.uint8)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Return the label map (H, W) of a VOC .png or an SBD .mat file."""
    return read_sbd_mask(path) if path.suffix == ".mat" else read_label_map(path, len(VOC_CLASSES))


def xml_classes(path: Path) -> tuple[int, ...]:
    """Return the 0-based classes of a VOC XML annotation, 'difficult' ones too, ascending. Raises UserError for damage."""
    try:
        root = ElementTree.parse(only_file(path)).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"annotation {path} cannot be read ({damage(error)}); --labels mask needs none") from error
    names = [(entry.findtext("name") or "").strip() for entry in root.iter("object")]
    unknown = [name for name in names if name not in _CLASS_INDEX]
    if unknown:
        raise UserError(f"annotation {path} names the class '{unknown[0]}', expected one of the 20 of VOC 2012")
    return tuple(sorted({_CLASS_INDEX[name] for name in names}))


def _wanted_of_voc(parts: Sequence[str]) -> bool:
    return any(part in _VOC_FOLDERS for part in parts[:-1]) and "SegmentationObject" not in parts


def _wanted_of_sbd(parts: Sequence[str]) -> bool:
    return len(parts) > 1 and parts[-2] == "cls" and parts[-1].endswith(".mat")

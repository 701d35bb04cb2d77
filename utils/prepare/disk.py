"""What can be checked in seconds before a training: its list against the validation lists, the disk against what it writes."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.schema import Config
from utils.data.folder import DataFolder
from utils.data.images import image_size
from utils.data.lists import read_id_list
from utils.errors import UserError
from utils.prepare.check import Entry, val_lists
from utils.prepare.check_report import Finding
from utils.prepare.layout import other_length

_FLOAT = 4  # bytes
# Bytes of a PNG a pixel of the image, as measured on real pictures (upper ends): CAMs, label maps.
_CAM_BYTES, _LABEL_BYTES = 0.25, 0.06
# A TensorBoard picture page, bytes.
_PAGE = 1 << 20
# Images whose headers are read to learn the mean size.
SIZE_SAMPLE = 32
# The new last.pth is written before the old one goes.
_COPIES = 2


@dataclass(frozen=True)
class RunSize:
    """What a run's output depends on.

    Attributes:
        images: of data.infer_list.
        labels: positive (image, class) pairs of them, the number of CAMs.
        train_images: of data.train_list.
        pixels: mean pixels an image.
        parameters: of all networks that are trained.
    """

    images: int
    labels: int
    train_images: int
    pixels: float
    parameters: int


def check_cheaply(cfg: Config, labels: Mapping[str, tuple[int, ...]], parameters: int) -> list[str]:
    """Check what takes seconds at most: overlap with the validation lists, free disk space.

    Args:
        cfg: of the run.
        labels: of the training images, as their data set has read them.
        parameters: of all networks that are trained.

    Returns:
        warnings: what is wrong without stopping training.

    Raises:
        UserError: when training would fail.
    """
    warnings = [message] if (message := other_length(cfg.data.train_list, len(labels))) else []
    for path in val_lists(cfg):
        try:
            both = [image_id for image_id in read_id_list(path) if image_id in labels]
        except UserError as error:  # training does not read it
            warnings.append(str(error))
            continue
        if both:
            warnings.append(f"{len(both)} images of data.train_list are in {path} too, the first: {both[0]}")
    entries = {image_id: Entry(image_id, classes, train=True) for image_id, classes in labels.items()}
    findings = disk_findings(run_needs(cfg, entries, parameters), Path(cfg.run_dir, "model"))
    for finding in findings:
        if finding.stops:
            raise UserError(f"disk too small: {finding.detail}")
    return warnings + [finding.detail for finding in findings]


def run_needs(cfg: Config, entries: Mapping[str, Entry], parameters: int) -> dict[Path, tuple[str, int]]:
    """Return `bytes_needed` of a run on these images."""
    train = [entry for entry in entries.values() if entry.train]
    labels = sum(len(entry.classes or ()) for entry in train)
    return bytes_needed(cfg, RunSize(len(train), labels, len(train), _mean_pixels(cfg, train), parameters))


def _mean_pixels(cfg: Config, entries: list[Entry]) -> float:
    step = max(1, len(entries) // SIZE_SAMPLE)
    pixels = []
    folder = DataFolder.of(cfg.data, cfg.data.train_list)
    for entry in entries[::step]:
        try:
            width, height = image_size(folder.image(entry.id))
        except UserError:
            continue  # reported elsewhere
        pixels.append(width * height)
    return sum(pixels) / len(pixels) if pixels else 0.0


def bytes_needed(cfg: Config, size: RunSize) -> dict[Path, tuple[str, int]]:
    """Return what each folder will receive: folder -> (what, bytes); what a previous run left there counts as written."""
    model_dir = Path(cfg.run_dir, "model")
    values = size.parameters * (1 + _optimizer_values(cfg))
    checkpoints = _FLOAT * (values * (_COPIES + len(cfg.train.keep_epochs)) + size.parameters)
    batches = -(-size.train_images // cfg.train.batch_size) * cfg.train.epochs
    pages = batches // cfg.train.images_every if cfg.train.images_every else 0
    needs = {
        model_dir: ("checkpoints", checkpoints),
        Path(cfg.run_dir, "tb"): ("TensorBoard", pages * _PAGE),
        Path(cfg.cam.dir): ("CAMs", round(size.labels * size.pixels * _CAM_BYTES)),
        Path(cfg.pseudo.out_dir): ("pseudo labels", round(size.images * size.pixels * _LABEL_BYTES)),
    }
    if cfg.cam.label_dir:
        needs[Path(cfg.cam.label_dir)] = ("label maps", round(size.images * size.pixels * _LABEL_BYTES))
    return {folder: (what, max(0, need - _there(folder))) for folder, (what, need) in needs.items()}


def disk_findings(needs: Mapping[Path, tuple[str, int]], training: Path) -> list[Finding]:
    """Return a finding for every disk that is too small; it stops training where the folder `training` alone does not fit."""
    by_disk: dict[int, list[Path]] = {}
    for folder in needs:
        by_disk.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    found = []
    for folders in by_disk.values():
        free = shutil.disk_usage(_existing(folders[0])).free
        total = sum(needs[folder][1] for folder in folders)
        if total > free:
            parts = ", ".join(f"{needs[f][0]} {_size(needs[f][1])}" for f in folders if needs[f][1])
            stops = training in folders and needs[training][1] > free
            detail = (
                f"{folders[0]}: about {_size(total)} needed ({parts}), {_size(free)} free; free space or set another run_dir"
            )
            found.append(Finding("disk too small", detail, stops))
    return found


def _optimizer_values(cfg: Config) -> int:
    """Return how many numbers the optimiser keeps for each weight."""
    if cfg.train.optimizer == "adamw":
        return 2
    return 1 if cfg.train.momentum else 0


def _there(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.is_dir() else 0


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"

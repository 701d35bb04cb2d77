"""A miniature of the official VOC 2012 and SBD downloads, written by the tests: folders, XML, palette PNGs, .mat files."""

from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from utils.data.classes import VOC_CLASSES, palette

SIZE = (20, 14)  # (W, H)
TRAIN, VAL = ["2007_000032", "2008_000015"], ["2007_000033", "2008_000162"]
SBD_ONLY = ["2008_000002", "2008_000008"]
# id -> classes of the mask (0-based); the XML has one more for SBD's second image.
MASK_CLASSES: dict[str, tuple[int, ...]] = {
    "2007_000032": (0, 14),
    "2008_000015": (4,),
    "2007_000033": (0,),
    "2008_000162": (3, 14),
    "2008_000002": (19,),
    "2008_000008": (12, 14),
}
XML_EXTRA = {"2008_000008": (8,)}


def mask_of(image_id: str, *, border: bool) -> NDArray[np.uint8]:
    """Return a mask (H, W) with a stripe per class, and a column of 255 with `border`."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    for place, k in enumerate(MASK_CLASSES[image_id]):
        mask[2:10, 2 + 6 * place : 6 + 6 * place] = k + 1
    if border:
        mask[:, 15] = 255
    return mask


def write_voc(root: Path) -> Path:
    """Write VOCdevkit/VOC2012 below `root` and return it."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True, exist_ok=True)
    for image_id, classes in MASK_CLASSES.items():
        Image.new("RGB", SIZE, (40, 80, 120)).save(voc / "JPEGImages" / f"{image_id}.jpg")
        objects = [*classes, *XML_EXTRA.get(image_id, ()), classes[0]]
        body = "".join(f"<object><name>{VOC_CLASSES[k]}</name><difficult>1</difficult></object>" for k in objects)
        (voc / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation><filename>{image_id}.jpg</filename>{body}</annotation>"
        )
    for image_id in TRAIN + VAL:
        picture = Image.fromarray(mask_of(image_id, border=True))
        picture.putpalette(palette())
        picture.save(voc / "SegmentationClass" / f"{image_id}.png")
    for name, ids in (("train", TRAIN), ("val", VAL)):
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return voc


def write_sbd(root: Path) -> Path:
    """Write benchmark_RELEASE below `root` and return it; it also has images VOC has (one of train, one of val)."""
    folder = root / "benchmark_RELEASE" / "dataset"
    (folder / "cls").mkdir(parents=True, exist_ok=True)
    for image_id in [*SBD_ONLY, TRAIN[0], VAL[0]]:
        mask = mask_of(image_id, border=False)
        if image_id in (TRAIN[0], VAL[0]):
            mask[mask > 0] = 7  # wrong on purpose: VOC's own mask must win
        write_sbd_mask(folder / "cls" / f"{image_id}.mat", mask)
    (folder / "train.txt").write_text("\n".join([*SBD_ONLY, TRAIN[0]]) + "\n")
    (folder / "val.txt").write_text(VAL[0] + "\n")
    return folder.parent


def write_sbd_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a .mat as SBD has it: struct GTcls with Boundaries, Segmentation and CategoriesPresent."""
    present = np.unique(mask[mask > 0]).reshape(-1, 1)
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [np.zeros((1, 1), np.uint8)] * 20
    entry = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": entry}, do_compression=True)

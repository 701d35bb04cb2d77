"""Ground-truth label maps spoilt on purpose, to see what corrects them: a share of the objects gets another class or is eroded.

m=data/voc_mini; python -m benchmarks.spoilt_labels --labels $m/SegmentationClassAug --list $m/train_aug.txt --out runs/spoilt
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.classes import palette
from utils.data.images import read_label_map, write_png
from utils.data.lists import read_id_list

IGNORED, MOST = 255, 254
SMALLEST = 64  # pixels; what is smaller is a speck and stays
ERODED = 0.3  # of the radius of a disc of the object's area


def main() -> None:
    """Write a spoilt map for each image of the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--list", type=Path, required=True, help="lines that begin with an image's id, or name its files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.2, help="of the objects; half of them change class, half erode")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    maps = {name: read_label_map(args.labels / f"{name}.png", MOST).copy() for name in read_id_list(args.list)}
    classes = sorted({int(k) for labels in maps.values() for k in np.unique(labels)} - {0, IGNORED})
    args.out.mkdir(parents=True, exist_ok=True)
    changed = 0
    for name, labels in maps.items():
        changed += spoil(labels, classes, args.share, random)
        write_png(args.out / f"{name}.png", labels, palette())
    print(f"{len(maps)} maps in {args.out}; {changed} objects spoilt")


def spoil(labels: NDArray[np.uint8], classes: list[int], share: float, random: np.random.Generator) -> int:
    """Spoil objects, connected pixels of one class, of an (H, W) map in place; return how many."""
    changed = 0
    for k in sorted({int(k) for k in np.unique(labels)} & set(classes)):
        count, parts = cv2.connectedComponents((labels == k).astype(np.uint8))
        for part in range(1, count):
            inside = parts == part
            if inside.sum() < SMALLEST or random.random() >= share:
                continue
            changed += 1
            if random.random() < 0.5:
                labels[inside] = random.choice([other for other in classes if other != k])
                continue
            radius = max(1, round(ERODED * float(np.sqrt(inside.sum() / np.pi))))
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            labels[inside & (cv2.erode(inside.astype(np.uint8), disc) == 0)] = 0
    return changed


if __name__ == "__main__":
    main()

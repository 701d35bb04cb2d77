"""Make a data folder of CUB-200-2011 (Wah et al., 2011) from the official download, for localisation.

    python -m scripts.prepare_cub --cub CUB_200_2011.tgz --out data/cub

Writes, below --out, JPEGImages/<name>.jpg (links; --images copy: copies), train_cls.txt and test_cls.txt (<name> <class>,
0-based), boxes.txt ('<name> <x> <y> <width> <height>', pixels; of all images) and classes.txt. The official lists are joined by
their image numbers; a missing newline at their end loses nothing.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.lists import list_lines
from utils.errors import UserError, run_program
from utils.files import lock_folder, write_text_atomic
from utils.prepare.layout import COPY, LINK, check_sources, label_lines, place_files
from utils.prepare.voc import find_folder, open_source

IMAGES = "JPEGImages"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
# Images of the two halves, as published.
PUBLISHED = {"train": 5994, "test": 5794}


@dataclass(frozen=True)
class CubSettings:
    """Options of the program; see `main`."""

    cub: Path
    out: Path
    images: str = LINK
    hold_out: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Bird:
    """An image: its file below images/, class (0-based), half, and box (x, y, width, height) as it is written."""

    file: str
    label: int
    half: str
    box: Sequence[str]

    @property
    def name(self) -> str:
        """Return the file's name without folder and suffix, which is unique."""
        return Path(self.file).stem


def main(argv: list[str]) -> None:
    """Parse the command line, prepare the set and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cub", type=Path, required=True, help="CUB_200_2011.tgz or the folder CUB_200_2011")
    parser.add_argument("--out", type=Path, default=Path("data/cub"), help="folder to write to (default %(default)s)")
    parser.add_argument("--images", choices=(LINK, COPY), default=LINK, help="how files are brought in (default link)")
    parser.add_argument(
        "--hold-out", type=int, default=0,
        help="also write fit_cls.txt and held_cls.txt, the training images without and with the first of every so many (10: a "
        "tenth is held out), for choices that may not be made on the test set; 0: no (default)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default 0)")
    print("\n".join(run(CubSettings(**vars(parser.parse_args(argv))))))


def run(settings: CubSettings) -> list[str]:
    """Prepare the set; returns the lines of the report. Raises UserError for input that is missing or damaged."""
    out = settings.out
    with lock_folder(out):
        start = open_source(settings.cub, out / "unpacked", lambda parts: "images" in parts[:-1] or parts[-1].endswith(".txt"))
        root = find_folder(start, (".", "CUB_200_2011"), ("images", *LISTS), "CUB-200-2011 folder")
        birds, names = read_birds(root), _class_names(root)
        files = [root / "images" / bird.file for bird in birds]
        for folder in dict.fromkeys(path.parent for path in files):
            check_sources([path for path in files if path.parent == folder], "picture")
        pairs = [(path, out / IMAGES / path.name) for path in files]
        place_files(pairs, settings.images, workers=settings.workers, what=IMAGES)
        report = []
        for half, published in PUBLISHED.items():
            labels = {bird.name: (bird.label,) for bird in birds if bird.half == half}
            write_text_atomic(out / f"{half}_cls.txt", label_lines(labels))
            report.append(f"{half}_cls.txt {len(labels)} images (published {published})")
        if settings.hold_out:
            report.append(_hold_out(out, birds, settings.hold_out))
        write_text_atomic(out / "boxes.txt", "".join(f"{' '.join([bird.name, *bird.box])}\n" for bird in birds))
        write_text_atomic(out / "classes.txt", "".join(f"{name}\n" for name in names))
        return [*report, f"{len(names)} classes, boxes of {len(birds)} images in {out}"]


def _hold_out(out: Path, birds: Sequence[Bird], every: int) -> str:
    """Write fit_cls.txt and held_cls.txt; of each class the first of every so many (at least 2) training images is held out."""
    if every < 2:
        raise UserError(f"--hold-out is {every}, expected 2 or more: one of so many images is held out")
    seen: Counter[int] = Counter()
    fit, held = dict[str, tuple[int, ...]](), dict[str, tuple[int, ...]]()
    for bird in birds:
        if bird.half == "train":
            (fit if seen[bird.label] % every else held)[bird.name] = (bird.label,)
            seen[bird.label] += 1
    write_text_atomic(out / "fit_cls.txt", label_lines(fit))
    write_text_atomic(out / "held_cls.txt", label_lines(held))
    return f"fit_cls.txt {len(fit)} and held_cls.txt {len(held)} images"


def read_birds(root: Path) -> list[Bird]:
    """Return the images of an unpacked CUB_200_2011, in the order of images.txt.

    Raises:
        UserError: for a list that is missing or damaged, images that one of the lists lacks, or two of one name.
    """
    files, labels, halves, boxes = (_numbered(root / name, 4 if name == LISTS[3] else 1) for name in LISTS)
    birds = []
    for number, (file,) in files.items():
        for name, rows in zip(LISTS[1:], (labels, halves, boxes), strict=True):
            if number not in rows:
                raise UserError(f"{root / name} has no line for image {number} ({file}); unpack the archive again")
        label, train = labels[number][0], halves[number][0]
        if not label.isdigit() or int(label) < 1 or train not in ("0", "1"):
            raise UserError(
                f"image {number} of {root} has class '{label}' and split '{train}', expected a number from 1, and 0 or 1; "
                "unpack the archive again"
            )
        birds.append(Bird(file, int(label) - 1, "train" if train == "1" else "test", boxes[number]))
    if len({bird.name for bird in birds}) < len(birds):
        raise UserError(f"{root / LISTS[0]} has two images of one name; unpack the archive again")
    return birds


def _numbered(path: Path, fields: int) -> dict[str, list[str]]:
    """Return number -> fields of a list whose lines begin with the image's number."""
    rows = {}
    for where, (number, *rest) in list_lines(path):
        if len(rest) != fields:
            raise UserError(f"{where}: {len(rest)} entries behind the number, expected {fields}; unpack the archive again")
        rows[number] = rest
    return rows


def _class_names(root: Path) -> list[str]:
    """Return the names in classes.txt, else of folders: "Black footed Albatross" for "001.Black_footed_Albatross"."""
    path = root / "classes.txt"
    if path.is_file():
        found = [name for (name,) in _numbered(path, 1).values()]
    else:
        found = sorted(folder.name for folder in (root / "images").iterdir() if folder.is_dir())
    return [name.partition(".")[2].replace("_", " ") or name for name in found]


if __name__ == "__main__":
    run_program(main)

"""Turn the official MS COCO 2014 download (or any set in COCO's format) into the data folder the other programs read.

    python -m scripts.prepare_coco --coco /datasets/coco --out data/coco14
    python -m scripts.prepare_coco --coco /datasets/coco --out data/coco14 --saliency Sal --images copy --crowd ignore
    python -m scripts.prepare_coco --coco mine --out data/mine --splits train=train2017,val=val2017

Reads <coco>/annotations/instances_<split>.json and the images of <coco>/<split>/ (or <coco>/images/<split>/). Writes

    JPEGImages/<id>.jpg             links or copies, train and val together; the images of the lists
    SegmentationClass/<id>.png      palette PNGs: 0 background, rank of the category id + 1
    train_cls.txt, val_cls.txt      '<id> <class> <class> ...', 0-based, images without any class left out
    train.txt, val.txt              '/JPEGImages/<id>.jpg /SegmentationClass/<id>.png'
    classes.txt, labels.txt         names: the classes; '<value><TAB><name>' with background (81) for the segmentation stage

Where outlines overlap the later annotation wins. Crowd regions are left out of the masks (--crowd skip), 255 where no single
object lies (ignore), or painted like objects (object). --crowd-labels says whether they count as image labels; auto counts
them only if that gives exactly the published numbers of images per class. An interrupted run continues.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.classes import COCO_CLASSES, palette, write_label_names
from utils.data.images import write_png
from utils.errors import UserError, import_optional, run_program
from utils.files import lock_folder, only_file, parse_json, remove_leftovers, write_text_atomic
from utils.prepare.coco import CROWD_CHOICES, CROWD_SKIP, CocoImage, CocoSplit, paint_label_map, read_instances
from utils.prepare.layout import (
    COPY,
    LINK,
    PUBLISHED_COUNTS,
    check_sources,
    compare_counts,
    images_per_class,
    label_lines,
    own_folder,
    pair_lines,
    place_files,
    write_list,
)
from utils.runtime.parallel import map_progress

DATASET = "coco14"
IMAGES, MASKS, SALIENCY = "JPEGImages", "SegmentationClass", "Sal"
AUTO, COUNT, SKIP = "auto", "count", "skip"
SETTINGS = "masks.json"


@dataclass(frozen=True)
class CocoSettings:
    """What to prepare and where to.

    Attributes:
        coco: folder of the official download.
        out: data folder to write.
        saliency: folder of <id>.png; None: none.
        splits: (name of the lists, name of the annotation file and image folder).
        crowd: crowd regions in masks, see `paint_label_map`.
        crowd_labels: "count", "skip" or "auto".
        images: "link" or "copy".
        workers: processes; 0 is one per core.
    """

    coco: Path
    out: Path
    saliency: Path | None = None
    splits: tuple[tuple[str, str], ...] = (("train", "train2014"), ("val", "val2014"))
    crowd: str = CROWD_SKIP
    crowd_labels: str = AUTO
    images: str = LINK
    workers: int = 0


def main(argv: list[str]) -> None:
    """Parse the command line and prepare the set."""
    default = CocoSettings(Path(), Path("data/coco14"))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_coco", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coco", type=Path, required=True, help="folder with annotations/, train2014/ and val2014/")
    parser.add_argument("--out", type=Path, default=default.out, help="folder to write to (default %(default)s)")
    parser.add_argument("--saliency", type=Path, help="folder of saliency maps <id>.png")
    parser.add_argument("--splits", type=_splits, default=default.splits, help="default train=train2014,val=val2014")
    parser.add_argument("--crowd", choices=CROWD_CHOICES, default=default.crowd, help="crowds in masks (default %(default)s)")
    parser.add_argument("--crowd-labels", choices=(AUTO, COUNT, SKIP), default=AUTO, help="crowds as labels (default auto)")
    parser.add_argument("--images", choices=(LINK, COPY), default=LINK, help="how files are brought in (default link)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default 0)")
    print("\n".join(run(CocoSettings(**vars(parser.parse_args(argv))))))


def run(settings: CocoSettings) -> list[str]:
    """Prepare the set; returns the lines of the report. Raises UserError for input that is missing or damaged."""
    import_optional("pycocotools.mask", "pycocotools", "prepare_coco")
    out = settings.out
    report: list[str] = []
    names: list[str] = []
    with lock_folder(out):
        _claim_masks(settings)
        for name, split_name in settings.splits:
            found, lines = _prepare_split(settings, name, split_name)
            if names and names != found:
                raise UserError(f"instances_{split_name}.json has other categories than the first split; they must agree")
            names, report = found, report + lines
        write_text_atomic(out / "classes.txt", "".join(f"{name}\n" for name in names))
        write_label_names(out / "labels.txt", names)
    if names == list(COCO_CLASSES):
        return report
    return [*report, f"{len(names)} categories, not the 80 of COCO: use data.class_names={out / 'classes.txt'}"]


def _splits(text: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(tuple(part.partition("=")[::2]) for part in text.split(","))
    if not all(all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not <list>=<split>,<list>=<split>")
    return pairs  # type: ignore[return-value]


def _claim_masks(settings: CocoSettings) -> None:
    """Refuse to mix masks of different rules in one folder, and clear what a killed run left."""
    folder = own_folder(settings.out / MASKS)
    remove_leftovers(folder)
    mark, rule = settings.out / SETTINGS, {"crowd": settings.crowd, "splits": dict(settings.splits)}
    try:
        found = parse_json(only_file(mark).read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = rule
    except (OSError, ValueError) as error:
        raise UserError(f"{mark} cannot be read ({error}); remove {folder} and it, or choose another --out") from error
    if found != rule:
        raise UserError(f"{folder} holds masks made with {found}, not {rule}; remove it and {mark}, or choose another --out")
    write_text_atomic(mark, json.dumps(rule) + "\n")


def _prepare_split(settings: CocoSettings, name: str, split_name: str) -> tuple[list[str], list[str]]:
    """Prepare one split; returns its class names and the report. Only one annotation file is in memory at a time."""
    out, split = settings.out, read_instances(settings.coco / "annotations" / f"instances_{split_name}.json")
    dataset = DATASET if split.class_names == list(COCO_CLASSES) else ""
    count_crowds = _count_crowds(settings, split, name, dataset)
    labels = {image.id: classes for image in split.images if (classes := image.classes(count_crowds=count_crowds))}
    listed = [image for image in split.images if image.id in labels]
    if not listed:
        raise UserError(f"instances_{split_name}.json has no image with an object; nothing to prepare")
    _place(settings, split_name, listed)
    written = _write_masks(settings, split_name, listed)
    return split.class_names, [
        write_list(out / f"{name}_cls.txt", label_lines(labels), dataset),
        compare_counts(labels, split.class_names, dataset, f"{name}_cls.txt"),
        write_list(out / f"{name}.txt", pair_lines(labels, MASKS), dataset),
        f"{split_name}: {len(split.images)} images, {len(split.images) - len(listed)} without labels left out, {written} masks "
        f"written, {len(listed) - written} were there; crowds {'count' if count_crowds else 'do not count'} as image labels",
    ]


def _count_crowds(settings: CocoSettings, split: CocoSplit, name: str, dataset: str) -> bool:
    """Return whether crowd annotations count as image labels; `auto` asks the published numbers."""
    published = PUBLISHED_COUNTS.get(dataset, {}).get(f"{name}_cls.txt")
    if settings.crowd_labels != AUTO or published is None:
        return settings.crowd_labels == COUNT
    labels = {image.id: image.classes(count_crowds=True) for image in split.images}
    return tuple(images_per_class(labels, len(published))) == published


def _place(settings: CocoSettings, split_name: str, images: Sequence[CocoImage]) -> None:
    """Bring images and saliency maps in; all must be there."""
    candidates = [settings.coco / split_name, settings.coco / "images" / split_name]
    folder = next((path for path in candidates if path.is_dir()), None)
    if folder is None:
        raise UserError(f"neither {candidates[0]} nor {candidates[1]} is there; unpack the images of {split_name} into one")
    sources = [(IMAGES, folder, [(image.file_name, f"{image.id}.jpg") for image in images])]
    if settings.saliency is not None:
        sources.append((SALIENCY, settings.saliency, [(f"{image.id}.png",) * 2 for image in images]))
    for target, source, files in sources:
        pairs = [(source / name, settings.out / target / new) for name, new in files]
        check_sources([path for path, _ in pairs], target)
        place_files(pairs, settings.images, workers=settings.workers, what=f"{target} of {split_name}")


def _write_masks(settings: CocoSettings, split_name: str, images: Sequence[CocoImage]) -> int:
    """Write the masks that are not there yet, newer than the annotations; returns how many."""
    made_from = (settings.coco / "annotations" / f"instances_{split_name}.json").stat().st_mtime_ns
    folder = settings.out / MASKS
    times = {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    todo = [image for image in images if times.get(image.id, -1) < made_from]
    write = partial(write_mask, folder, settings.crowd)
    return sum(map_progress(write, todo, workers=settings.workers, what=f"masks of {split_name}"))


def write_mask(folder: Path, crowd: str, image: CocoImage) -> int:
    """Paint one image's label map and write `<folder>/<id>.png`; returns 1."""
    write_png(folder / f"{image.id}.png", paint_label_map(image, crowd), palette())
    return 1


if __name__ == "__main__":
    run_program(main)

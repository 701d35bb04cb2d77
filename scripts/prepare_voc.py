"""Turn the official PASCAL VOC 2012 and SBD downloads into the data folder the other programs read.

    python -m scripts.prepare_voc --voc VOCdevkit/VOC2012 --sbd benchmark_RELEASE --saliency Sal --out data/voc12
    python -m scripts.prepare_voc --voc VOCtrainval_11-May-2012.tar --sbd benchmark.tgz --out data/voc12 --images copy
    python -m scripts.prepare_voc --voc VOCdevkit/VOC2012 --sbd benchmark_RELEASE --labels xml --out data/voc12_xml

Writes JPEGImages/ (and Sal/, with --saliency) as links or copies, SegmentationClassAug/<id>.png (VOC's own masks; SBD's .mat
files become palette PNGs where VOC has none), and

    train_cls.txt, val_cls.txt                        '<id> <class> <class> ... ', 0-based, as published
    train_aug.txt, train.txt, val_aug.txt, val.txt    '/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png'
    labels.txt                                        '<value><TAB><name>' with background, for the segmentation stage

Image labels come from the masks, as the published lists' do, or with --labels xml from all objects of the XML annotations (817
of 10,582 training images then have classes the published list misses), as for CRT and IRN, whose cls_labels.npy is then written
too: a dictionary of id -> vector of 20, training and validation images. Without --sbd, train_aug.txt holds VOC's 1,464 images.
--cls-png also makes cls_png/<id>.png of all of SBD's .mat files, beside their folder cls, where the lists of WS-FCN name them.
Archives are unpacked to <out>/unpacked (links lead there). The same command continues an interrupted run.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.classes import VOC_CLASSES, mask_classes, palette, write_label_names
from utils.data.images import image_size, read_label_map, write_png
from utils.data.lists import write_label_array
from utils.errors import UserError, run_program
from utils.files import lock_folder, remove_leftovers
from utils.prepare.layout import (
    COPY,
    LINK,
    check_sources,
    compare_counts,
    label_lines,
    own_folder,
    pair_lines,
    place_files,
    up_to_date,
    write_list,
)
from utils.prepare.voc import VocSource, open_voc, read_mask, xml_classes
from utils.runtime.parallel import map_progress

DATASET, XML_DATASET = "voc12", "voc12_xml"
IMAGES, MASKS, SALIENCY = "JPEGImages", "SegmentationClassAug", "Sal"


@dataclass(frozen=True)
class VocSettings:
    """What to prepare and where to.

    Attributes:
        voc: official VOC 2012 folder or archive.
        out: data folder to write.
        sbd: official SBD folder or archive; None: VOC's own masks only.
        saliency: folder of <id>.png; None: none.
        labels: "mask" (published) or "xml".
        images: "link" or "copy".
        workers: processes; 0 is one per core.
        cls_png: also write SBD's own masks, beside its folder cls.
    """

    voc: Path
    out: Path
    sbd: Path | None = None
    saliency: Path | None = None
    labels: str = "mask"
    images: str = LINK
    workers: int = 0
    cls_png: bool = False


def main(argv: list[str]) -> None:
    """Parse the command line and prepare the set."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_voc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True, help="VOCdevkit/VOC2012 or VOCtrainval_11-May-2012.tar")
    parser.add_argument("--sbd", type=Path, help="benchmark_RELEASE, benchmark.tgz, or a folder of <id>.png made from them")
    parser.add_argument("--saliency", type=Path, help="folder of saliency maps <id>.png")
    parser.add_argument("--out", type=Path, default=Path("data/voc12"), help="folder to write to (default %(default)s)")
    parser.add_argument("--labels", choices=("mask", "xml"), default="mask", help="origin of image labels (default mask)")
    parser.add_argument("--images", choices=(LINK, COPY), default=LINK, help="how files are brought in (default link)")
    parser.add_argument("--cls-png", action="store_true", help="also write SBD's masks to cls_png/ beside its folder cls")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default 0)")
    print("\n".join(run(VocSettings(**vars(parser.parse_args(argv))))))


def run(settings: VocSettings) -> list[str]:
    """Prepare the set; returns the lines of the report. Raises UserError for input that is missing or damaged."""
    out = settings.out
    with lock_folder(out):
        source = open_voc(settings.voc, settings.sbd, out / "unpacked")
        matlab = {i: path for i, path in source.sbd.items() if path.suffix == ".mat"}
        if settings.cls_png and not matlab:
            raise UserError("--cls-png needs SBD's .mat files; give the official download with --sbd")
        train, val = source.train_aug, sorted(source.val)
        _place(settings, source, train + val)
        classes = _write_masks(settings, source, train + val)
        if settings.labels == "xml":
            classes = {i: xml_classes(source.annotation(i)) for i in train + val}
        write_label_names(out / "labels.txt", VOC_CLASSES)
        report = [*_write_lists(settings, source, classes), f"{len(train)} training and {len(val)} validation images in {out}"]
        return [*report, _write_cls_png(source, matlab, settings.workers)] if settings.cls_png else report


def _place(settings: VocSettings, source: VocSource, ids: list[str]) -> None:
    """Bring images and saliency maps in; all must be there."""
    folders = [(IMAGES, [source.image(i) for i in ids])]
    if settings.saliency is not None:
        folders.append((SALIENCY, [settings.saliency / f"{i}.png" for i in ids]))
    for name, files in folders:
        check_sources(files, name)
        pairs = [(path, settings.out / name / path.name) for path in files]
        place_files(pairs, settings.images, workers=settings.workers, what=name)


def _write_masks(settings: VocSettings, source: VocSource, ids: list[str]) -> dict[str, tuple[int, ...]]:
    """Write the label maps; returns each image's classes by its mask."""
    folder = own_folder(settings.out / MASKS)
    remove_leftovers(folder)
    voc = [(source.masks[i], folder / f"{i}.png") for i in ids if source.masks[i].suffix == ".png"]
    place_files(voc, settings.images, workers=settings.workers, what=MASKS)
    jobs = [(source.masks[i], source.image(i), folder / f"{i}.png") for i in ids]
    found = map_progress(convert_mask, jobs, workers=settings.workers, what="label maps")
    return dict(zip(ids, found, strict=True))


def _write_cls_png(source: VocSource, matlab: dict[str, Path], workers: int) -> str:
    """Write SBD's own masks, also where VOC has finer ones; returns a line for the report."""
    folder = own_folder(next(iter(matlab.values())).parents[1] / "cls_png")
    with lock_folder(folder):
        remove_leftovers(folder)
        jobs = [(path, source.image(i), folder / f"{i}.png") for i, path in matlab.items()]
        written = len(list(map_progress(convert_mask, jobs, workers=workers, what="cls_png")))
    return f"{written} of SBD's masks in {folder}"


def convert_mask(job: tuple[Path, Path, Path]) -> tuple[int, ...]:
    """Write one label map as a palette PNG unless it is there, and return its classes (0-based).

    Args:
        job: (mask .png or .mat, photo of the same size, PNG to write).

    Raises:
        UserError: for a damaged mask, or one of another size than its photo.
    """
    mask_file, photo, target = job
    done = mask_file.suffix == ".png" or up_to_date(target, mask_file)
    mask = read_label_map(target, len(VOC_CLASSES)) if done else read_mask(mask_file)
    size = image_size(photo)
    if mask.shape != size[::-1]:
        raise UserError(
            f"{mask_file} is {mask.shape[1]}x{mask.shape[0]} pixels but {photo} is {size[0]}x{size[1]}; "
            "they are not from the same release"
        )
    if not done:
        write_png(target, mask, palette())
    return mask_classes(mask)


def _write_lists(settings: VocSettings, source: VocSource, classes: dict[str, tuple[int, ...]]) -> list[str]:
    out, val = settings.out, sorted(source.val)
    report, empty = [], [i for i, found in classes.items() if not found]
    pairs = partial(pair_lines, label_dir=MASKS, final_newline=False)
    lists = (("train_aug.txt", source.train_aug), ("train.txt", source.train), ("val_aug.txt", val), ("val.txt", val))
    for name, ids in lists:
        report.append(write_list(out / name, pairs(ids), DATASET))
    for name, ids in (("train_cls.txt", source.train_aug), ("val_cls.txt", val)):
        labels, like = {i: classes[i] for i in ids if classes[i]}, XML_DATASET if settings.labels == "xml" else DATASET
        report.append(write_list(out / name, label_lines(labels, trailing_space=True), like))
        report.append(compare_counts(labels, VOC_CLASSES, like, name))
    if empty:
        report.append(f"{len(empty)} images without any class are in no *_cls.txt, the first: {empty[0]}")
    if settings.labels == "xml":
        write_label_array(out / "cls_labels.npy", {i: classes[i] for i in [*source.train_aug, *val]}, len(VOC_CLASSES))
        report.append("labels come from the XML annotations: the published lists were made from masks and hold fewer classes")
    if settings.sbd is None:
        report.append("no --sbd: train_aug.txt holds VOC's own training images only")
    return report


if __name__ == "__main__":
    run_program(main)

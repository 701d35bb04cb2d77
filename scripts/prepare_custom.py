"""Turn a folder of your own pictures into a data set and a configuration that is ready to train.

    python -m scripts.prepare_custom --images photos --labels labels.csv --out data/mine
    python -m scripts.prepare_custom --images photos_by_class --out data/mine              # one folder a class
    python -m scripts.prepare_custom --images photos --labels labels.json --classes classes.txt --masks masks \\
        --saliency saliency --val 0.2 --out data/mine --config configs/mine.yaml

labels.csv holds 'file,class;class' lines; labels.json {"file": ["class", ...]} or [{"file": ..., "classes": [...]}]. Pictures
may lie in subfolders. Upright JPEGs are linked (or copied), everything else becomes a JPEG of quality 95. Masks are PNGs of
label values (0 background, class index + 1, 255 ignored) named like the pictures; saliency maps 8-bit grey PNGs likewise.

Writes JPEGImages/, SegmentationClassAug/ and Sal/ (where given), classes.txt, labels.txt, train_cls.txt, val_cls.txt, and
train_aug.txt, val_aug.txt (pairs of paths; validation pictures with masks only); pictures without a class are in
unlabelled.txt. The configuration stands on configs/own_pictures.yaml (--preset own_pictures_cpu where there is no GPU); without
saliency maps it trains without them until scripts.make_saliency has made some. The same command continues an interrupted run.
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.data.classes import write_label_names
from utils.errors import UserError, run_program
from utils.files import lock_folder, only_file, write_text_atomic
from utils.prepare.custom import bring_maps, bring_pictures, list_images, picture_ids, read_named_labels, resolve_classes
from utils.prepare.layout import COPY, LINK, images_per_class, label_lines, own_folder, pair_lines, write_list

IMAGES, MASKS, SALIENCY = "JPEGImages", "SegmentationClassAug", "Sal"
PRESET = "own_pictures"  # of configs/
MOST_CLASSES = 254  # label maps are 8-bit: 0 is background, 255 ignored

Labels = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class CustomSettings:
    """What to prepare and where to.

    Attributes:
        images: folder of pictures.
        out: data folder to write; its name is the set's.
        labels: CSV or JSON; None: one folder a class.
        classes: text file with one class name a line, in index order; None: all that occur, sorted.
        masks: folder of ground-truth masks; None: none.
        saliency: folder of saliency maps; None: none.
        val: share of the labelled pictures kept for validation, in [0, 1).
        seed: of that choice.
        config: configuration to write; None: configs/<name of out>.yaml.
        place: "link" or "copy".
        overwrite: replace a configuration that is there.
        preset: what the configuration stands on, the name of a file of configs/.
        workers: processes; 0 is one per core.
    """

    images: Path
    out: Path
    labels: Path | None = None
    classes: Path | None = None
    masks: Path | None = None
    saliency: Path | None = None
    val: float = 0.2
    seed: int = 0
    config: Path | None = None
    place: str = LINK
    overwrite: bool = False
    preset: str = PRESET
    workers: int = 0


def main(argv: list[str]) -> None:
    """Parse the command line and prepare the set."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_custom", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures, subfolders included")
    parser.add_argument("--out", type=Path, required=True, help="data folder to write, e.g. data/mine")
    parser.add_argument("--labels", type=Path, help="CSV or JSON; without it one folder a class")
    parser.add_argument("--classes", type=Path, help="class names, one a line, in index order (default: those found, sorted)")
    parser.add_argument("--masks", type=Path, help="folder of ground-truth masks, for evaluation")
    parser.add_argument("--saliency", type=Path, help="folder of saliency maps")
    parser.add_argument("--val", type=float, default=0.2, help="share kept for validation, in [0, 1) (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of that choice (default 0)")
    parser.add_argument("--config", type=Path, help="configuration to write (default configs/<name of --out>.yaml)")
    parser.add_argument("--place", choices=(LINK, COPY), default=LINK, help="how JPEGs and maps are brought in (default link)")
    parser.add_argument("--overwrite", action="store_true", help="replace a configuration that is there")
    parser.add_argument("--preset", default=PRESET, help="configuration of configs/ to start from (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default 0)")
    print("\n".join(run(CustomSettings(**vars(parser.parse_args(argv))))))


def run(settings: CustomSettings) -> list[str]:
    """Prepare the set; returns the lines of the report. Raises UserError for labels, pictures or maps that do not fit."""
    if not 0 <= settings.val < 1:
        raise UserError(f"--val is {settings.val}, expected a share in [0, 1)")
    out, names = settings.out, list_images(settings.images)
    named = read_named_labels(settings.labels, names)
    classes = resolve_classes(named, _given_classes(settings.classes))
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{len(classes)} classes found, at most {MOST_CLASSES} fit into 8-bit label maps; give --classes")
    ids = picture_ids(names)
    index = {name: k for k, name in enumerate(classes)}
    labels = {ids[file]: tuple(sorted(index[c] for c in found)) for file, found in named.items()}
    with lock_folder(out):
        converted = bring_pictures(settings.images, ids, own_folder(out / IMAGES), settings.place, workers=settings.workers)
        masked = _maps(settings, settings.masks, ids, MASKS, len(classes))
        salient = _maps(settings, settings.saliency, ids, SALIENCY, None)
        write_text_atomic(out / "classes.txt", "".join(f"{name}\n" for name in classes))
        write_label_names(out / "labels.txt", classes)
        report = _write_lists(settings, labels, set(masked), classes)
        full = bool(salient) and len(salient) == len(ids)
        config = _write_config(settings, len(classes), full)
    if salient and not full:
        report.append(f"{len(ids) - len(salient)} pictures have no saliency map: the configuration trains without saliency")
    report.append(f"{len(ids)} pictures in {out} ({converted} converted), {len(masked)} masks, {len(salient)} saliency maps")
    report.append(f"next: python -m scripts.check_data --config {config}")
    return report


def _given_classes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = [line.strip() for line in only_file(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"class list {path} cannot be read ({error}); give a UTF-8 text with one name a line") from error
    if not names or len(set(names)) != len(names):
        raise UserError(f"class list {path} is empty or has a name twice; give one name a line, without background")
    return names


def _maps(settings: CustomSettings, folder: Path | None, ids: dict[str, str], name: str, num_classes: int | None) -> list[str]:
    if folder is None:
        return []
    out = settings.out
    found = bring_maps(folder, ids, out / IMAGES, out / name, settings.place, num_classes, workers=settings.workers)
    if not found:
        raise UserError(f"{folder} holds no PNG named like a picture; expected e.g. {next(iter(ids.values()))}.png")
    return found


def _write_lists(settings: CustomSettings, labels: Labels, masked: set[str], classes: list[str]) -> list[str]:
    labelled = {image_id: found for image_id, found in labels.items() if found}
    unlabelled = [image_id for image_id, found in labels.items() if not found]
    val = _choose(sorted(labelled), settings.val, settings.seed)
    train_labels = {i: found for i, found in labelled.items() if i not in val}
    val_labels = {i: found for i, found in labelled.items() if i in val}
    report = []
    for name, text in (
        ("train_cls.txt", label_lines(train_labels)),
        ("val_cls.txt", label_lines(val_labels)),
        ("train_aug.txt", pair_lines(train_labels, MASKS)),
        ("val_aug.txt", pair_lines([i for i in val_labels if i in masked], MASKS)),
        ("train_masked.txt", "".join(f"{i}\n" for i in train_labels if i in masked)),
        ("unlabelled.txt", "".join(f"{i}\n" for i in unlabelled)),
    ):
        # An empty list is an error to every reader: none is written.
        if text.strip():
            report.append(write_list(settings.out / name, text))
        else:
            (settings.out / name).unlink(missing_ok=True)
    for name, count in zip(classes, images_per_class(train_labels, len(classes)), strict=True):
        report.append(f"  {name}: {count} training pictures" + ("" if count else "; it cannot be learnt"))
    return report


def _choose(ids: list[str], share: float, seed: int) -> set[str]:
    """Return a share of `ids`; at least one stays for training."""
    count = min(round(share * len(ids)), len(ids) - 1)
    return set(random.Random(seed).sample(ids, count))


def _write_config(settings: CustomSettings, num_classes: int, saliency: bool) -> Path:
    path = settings.config or Path("configs") / f"{settings.out.name}.yaml"
    base = Path(__file__).parents[1] / "configs" / f"{settings.preset}.yaml"
    if not base.is_file():
        raise UserError(
            f"--preset is {settings.preset}, but there is no {base}; expected e.g. own_pictures or own_pictures_cpu"
        )
    here = path.resolve().parent == base.parent.resolve()
    masked = (settings.out / "train_masked.txt").is_file()
    content = {
        "base": base.name if here else str(base.resolve()),
        "name": settings.out.name,
        "data": {
            "root": str(settings.out),
            "num_classes": num_classes,
            "class_names": str(settings.out / "classes.txt"),
            # With masks the CAMs can be scored; labels are made for all training pictures with data.eval_list=<train_cls.txt>.
            "eval_list": "${data.root}/train_masked.txt" if masked else "${data.root}/train_cls.txt",
        },
        "l2g": {"saliency": "map" if saliency else "none"},
        "pseudo": {"fusion": "saliency" if saliency else "threshold"},
    }
    text = f"# Written by scripts.prepare_custom; see {base.name} for what it stands on.\n"
    if not saliency:
        text += "# After scripts.make_saliency: l2g.saliency map, pseudo.fusion saliency.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if path.exists() and only_file(path).read_text(encoding="utf-8") != text and not settings.overwrite:
        raise UserError(f"{path} is there already and differs; use --overwrite, or --config for another name")
    write_text_atomic(path, text)
    return path


if __name__ == "__main__":
    run_program(main)

"""Write the embedded demo set: a small picture book of six creatures, in the VOC layout.

    python -m scripts.make_demo_data                                        # 400 + 80 pictures of 128 x 128 in data/demo
    python -m scripts.make_demo_data --out data/demo --train 400 --val 80 --size 128 --seed 0
    python -m scripts.make_demo_data --out data/demo_boxes --task boxes     # for localisation

The creatures share one plain body in any colour and differ in one small part of its own colour (ears, horn, feelers, spikes,
tail), so that a plain CAM lights the part and not the creature. Written are

    JPEGImages/<id>.jpg  SegmentationClassAug/<id>.png (0 background, class + 1)  Sal/<id>.png (imperfect saliency)
    train_cls.txt, val_cls.txt    '<id> <class> ...', classes 0-based
    train_aug.txt, val_aug.txt    '/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png'
    train.txt, val.txt            '<id>'
    classes.txt                   one class name a line
    boxes.txt                     '<id> <x> <y> <width> <height>', with --task boxes: one creature a picture
    demo.json                     the settings the folder was made with

The same settings give the same pictures; picture n of a split does not depend on how many there are. An interrupted run is
continued by the same command. A folder made with other settings is refused unless --overwrite is given.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.classes import class_index, palette
from utils.data.images import jpeg_bytes, read_label_map, write_png
from utils.demo_set.creatures import CREATURES
from utils.demo_set.scene import SPLITS, draw_scene
from utils.errors import UserError, run_program
from utils.files import atomic_path, lock_folder, only_file, parse_json, remove_leftovers, write_text_atomic
from utils.runtime.parallel import map_progress

IMAGES, LABELS, SALIENCY = "JPEGImages", "SegmentationClassAug", "Sal"
MANIFEST, BOXES_FILE = "demo.json", "boxes.txt"
MASKS, BOXES = "masks", "boxes"
GENERATOR = 2  # raise when the drawing changes, so that folders of an older drawing are noticed
JPEG_QUALITY = 92
SIZES = (32, 1024)  # picture sides that make sense


@dataclass(frozen=True)
class DemoSettings:
    """What decides every byte of the set."""

    train: int = 400  # pictures of the train split, > 0
    val: int = 80  # pictures of the val split, > 0
    size: int = 128  # picture side, pixels
    seed: int = 0  # >= 0
    task: str = MASKS  # boxes: one creature a picture, and its box
    generator: int = GENERATOR  # version of the drawing


@dataclass(frozen=True)
class _Picture:
    split: str
    index: int

    @property
    def id(self) -> str:
        return f"{self.split}_{self.index:04d}"

    def __str__(self) -> str:
        return self.id

    def paths(self, out: Path) -> tuple[Path, Path, Path]:
        return out / IMAGES / f"{self.id}.jpg", out / LABELS / f"{self.id}.png", out / SALIENCY / f"{self.id}.png"


def main(argv: list[str]) -> None:
    """Parse the command line and write the set."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_demo_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = DemoSettings()
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to write to (default %(default)s)")
    parser.add_argument("--train", type=int, default=default.train, help="training pictures, > 0 (default %(default)s)")
    parser.add_argument("--val", type=int, default=default.val, help="validation pictures, > 0 (default %(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="picture side, pixels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="seed of every drawing, >= 0 (default %(default)s)")
    parser.add_argument(
        "--task", choices=(MASKS, BOXES), default=default.task, help="boxes: one creature a picture (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a demo set made with other settings")
    args = parser.parse_args(argv)
    settings = DemoSettings(args.train, args.val, args.size, args.seed, args.task)
    run(args.out, settings, workers=args.workers, overwrite=args.overwrite)


def run(out: Path, settings: DemoSettings, *, workers: int = 0, overwrite: bool = False) -> None:
    """Write the demo set of `settings` to folder `out`, or finish one that was interrupted.

    Args:
        workers: drawing processes; 0 is one per core, 1 draws in this process.
        overwrite: draw everything anew, also over a demo set with other settings.

    Raises:
        UserError: settings out of range; `out` holds another demo set or files that are none.
    """
    _check_settings(settings)
    started = time.monotonic()
    with lock_folder(out):
        _prepare_folder(out, settings, overwrite)
        draw = partial(_write_picture, out=out, settings=settings)
        pictures = list(_pictures(settings))
        classes = list(map_progress(draw, pictures, workers=workers, what="demo pictures"))
        if settings.task == BOXES:
            write_text_atomic(out / BOXES_FILE, "".join(_box_line(picture, out) for picture in pictures))
        _write_lists(out, dict(zip(pictures, classes, strict=True)))
    seconds = time.monotonic() - started
    print(
        f"{out}: {settings.train} training and {settings.val} validation pictures of {', '.join(CREATURES)} ({seconds:.0f} s)"
    )


def _check_settings(settings: DemoSettings) -> None:
    for name, value in (("--train", settings.train), ("--val", settings.val)):
        if value < 1:
            raise UserError(f"{name} is {value}; expected at least 1 picture")
    if not SIZES[0] <= settings.size <= SIZES[1]:
        raise UserError(f"--size is {settings.size}; expected {SIZES[0]} to {SIZES[1]} pixels")
    if settings.seed < 0:
        raise UserError(f"--seed is {settings.seed}; expected a number >= 0")


def _pictures(settings: DemoSettings) -> Iterator[_Picture]:
    for split in SPLITS:
        for index in range(getattr(settings, split)):
            yield _Picture(split, index)


def _prepare_folder(out: Path, settings: DemoSettings, overwrite: bool) -> None:
    """Make `out` a folder whose manifest says `settings` and which holds only pictures drawn with them."""
    present = _read_manifest(out)
    if present is None:
        foreign = [name for name in (IMAGES, LABELS, SALIENCY, *_list_names()) if (out / name).exists()]
        if foreign:
            raise UserError(f"{out} holds {foreign[0]} but no {MANIFEST}, so it is no demo set; choose another --out")
    elif overwrite:
        _remove_pictures(out, present)
    elif present != settings:
        raise UserError(
            f"{out} holds a demo set with {_differences(present, settings)}; choose another --out (run_demo.sh: DATA=...), "
            f"or replace it: python -m scripts.make_demo_data --out {out} {_options(settings)} --overwrite"
        )
    write_text_atomic(out / MANIFEST, json.dumps(asdict(settings), indent=1) + "\n")  # first: without it nothing is continued
    for folder in (IMAGES, LABELS, SALIENCY):
        (out / folder).mkdir(parents=True, exist_ok=True)
        remove_leftovers(out / folder)


def _read_manifest(out: Path) -> DemoSettings | None:
    path = out / MANIFEST
    if not path.exists():
        return None
    try:
        return DemoSettings(**parse_json(only_file(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a demo set ({error}); remove the folder or choose another --out") from error


def _differences(present: DemoSettings, wanted: DemoSettings) -> str:
    now, then = asdict(wanted), asdict(present)
    return ", ".join(f"{key} {then[key]} (asked: {now[key]})" for key in now if now[key] != then[key])


def _options(settings: DemoSettings) -> str:
    return " ".join(f"--{name} {value}" for name, value in asdict(settings).items() if name != "generator")


def _remove_pictures(out: Path, settings: DemoSettings) -> None:
    """Remove exactly what `settings` wrote; the manifest stays, so that a killed run can be repeated."""
    for name in _list_names():
        (out / name).unlink(missing_ok=True)
    for picture in _pictures(settings):
        for path in picture.paths(out):
            path.unlink(missing_ok=True)


def _write_picture(picture: _Picture, *, out: Path, settings: DemoSettings) -> tuple[int, ...]:
    """Draw and write one picture unless all its files are there; return its sorted 0-based classes."""
    image_path, label_path, saliency_path = picture.paths(out)
    if image_path.exists() and label_path.exists() and saliency_path.exists():
        label = read_label_map(label_path, len(CREATURES), (settings.size, settings.size))
        return tuple(class_index(int(value)) for value in sorted(set(label.ravel().tolist()) - {0}))
    scene = draw_scene(settings.seed, picture.split, picture.index, settings.size, alone=settings.task == BOXES)
    write_png(label_path, scene.label, palette())
    write_png(saliency_path, scene.saliency)
    with atomic_path(image_path) as temporary:
        temporary.write_bytes(jpeg_bytes(Image.fromarray(scene.image), quality=JPEG_QUALITY))
    return scene.classes


def _list_names() -> list[str]:
    return [f"{split}{kind}.txt" for split in SPLITS for kind in ("_cls", "_aug", "")] + ["classes.txt", BOXES_FILE]


def _box_line(picture: _Picture, out: Path) -> str:
    """Return '<id> <x> <y> <width> <height>' of the one creature of a picture."""
    rows, columns = np.nonzero(read_label_map(picture.paths(out)[1], len(CREATURES)))
    sides = [np.ptp(columns) + 1, np.ptp(rows) + 1]
    return " ".join(map(str, (picture.id, columns.min(), rows.min(), *sides))) + "\n"


def _write_lists(out: Path, classes: dict[_Picture, tuple[int, ...]]) -> None:
    """Write the list files last: where they exist, every picture does."""
    for split in SPLITS:
        chosen = {picture.id: present for picture, present in classes.items() if picture.split == split}
        lines = {
            "_cls": [" ".join([id_, *map(str, present)]) for id_, present in chosen.items()],
            "_aug": [f"/{IMAGES}/{id_}.jpg /{LABELS}/{id_}.png" for id_ in chosen],
            "": list(chosen),
        }
        for kind, content in lines.items():
            write_text_atomic(out / f"{split}{kind}.txt", "\n".join(content) + "\n")
    write_text_atomic(out / "classes.txt", "\n".join(CREATURES) + "\n")


if __name__ == "__main__":
    run_program(main)

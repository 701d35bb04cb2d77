"""Cut confident objects out of the images of an earlier run, as a bank for pasting them into others (l2g.paste).

    python -m scripts.make_foreground_bank --config configs/l2g_voc_sa.yaml [key=value ...]            # from its CAMs
    python -m scripts.make_foreground_bank --config configs/l2g_voc.yaml bank.source=labels            # from pseudo labels

Reads the images of data.eval_list with <bank.cam_dir>/<id>_<class>.png or <bank.label_dir>/<id>.png, and saliency unless
l2g.saliency=none. Writes <bank.dir>/<class>/<id>.png (RGBA, class 0-based), <id>_saliency.png beside it, index.json (all
objects, and the settings), and contact_sheet.png: look at it before training.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from configs.schema import Config
from scripts.build import parse_args
from utils.cams.foreground import BankSource, best_of_each_class, write_objects
from utils.cams.store import LabelledId, read_labelled_ids
from utils.data.classes import resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import read_cutout, write_png
from utils.data.lists import read_id_list
from utils.data.paste import BankEntry, ForegroundBank, read_index, write_index
from utils.drawing.overlays import Picture, contact_sheet, fit_square, on_checkerboard
from utils.errors import UserError, run_program
from utils.files import lock_folder, remove_leftovers

SHEET = "contact_sheet.png"
SHEET_COLUMNS, CELL_HEIGHT = 8, 96


def main(argv: list[str]) -> None:
    """Parse the command line and make the bank."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> list[BankEntry]:
    """Make the bank as configured; return its objects. Raises UserError when none passes; nothing is changed then."""
    folder = Path(cfg.bank.dir)
    names = resolve_class_names(cfg.data.class_names, cfg.data.num_classes)
    data = DataFolder.of(cfg.data, cfg.data.eval_list, saliency=cfg.settings.saliency == "map")
    source = BankSource(data, cfg.bank, cfg.settings.paste.salient)
    tasks = _tasks(cfg)
    with lock_folder(folder):
        for of_a_class in folder.glob("[0-9]*"):
            remove_leftovers(of_a_class)
        found, reasons = write_objects(source, tasks)
        if not found:
            raise UserError(_nothing(cfg, len(tasks), reasons))
        entries = best_of_each_class(found, cfg.bank.max_per_class)
        _remove_others(folder, found, entries)
        write_index(folder, entries, asdict(cfg.bank))
        write_png(folder / SHEET, _sheet(folder, entries, names))
    _report(cfg, entries, reasons, names, len(tasks))
    return entries


def _tasks(cfg: Config) -> list[LabelledId]:
    if cfg.bank.source == "cams":
        return read_labelled_ids(cfg, Path(cfg.bank.cam_dir))
    return [(image_id, ()) for image_id in read_id_list(Path(cfg.data.eval_list))]


def _nothing(cfg: Config, images: int, reasons: Counter[str]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"none of {images} images has an object for the bank ({counts}); widen bank.share (now {cfg.bank.share}), lower "
        "bank.connected, bank.min_score or bank.min_salient, or set bank.single_class=false"
    )


def _remove_others(folder: Path, found: list[BankEntry], kept: list[BankEntry]) -> None:
    """Delete the pictures of objects that did not get into the index, of this run and of an earlier one."""
    names = {name for entry in kept for name in (entry.file, entry.saliency_file)}
    for entry in [*found, *read_index(folder, missing_ok=True)]:
        for name in (entry.file, entry.saliency_file):
            if name not in names:
                (folder / name).unlink(missing_ok=True)


def _sheet(folder: Path, entries: list[BankEntry], names: list[str]) -> Picture:
    """Return a row per class: its first objects on a checkerboard, spread over the list."""
    rows = []
    for index in sorted({entry.class_index for entry in entries}):
        own = [entry for entry in entries if entry.class_index == index]
        chosen = own[:: -(-len(own) // SHEET_COLUMNS)]
        pictures = [on_checkerboard(np.asarray(read_cutout(folder / entry.file))) for entry in chosen]
        titles = [f"{names[index]}: {len(own)}", *(entry.image_id for entry in chosen[1:])]
        rows.append([(title, fit_square(picture, CELL_HEIGHT)) for title, picture in zip(titles, pictures, strict=True)])
    return contact_sheet(rows, cell_height=CELL_HEIGHT)


def _report(cfg: Config, entries: list[BankEntry], reasons: Counter[str], names: list[str], images: int) -> None:
    counts = Counter(entry.class_index for entry in entries)
    print(f"{len(entries)} objects of {images} images in {cfg.bank.dir}; look at {Path(cfg.bank.dir) / SHEET}")
    print("  " + ", ".join(f"{name} {counts[index]}" for index, name in enumerate(names)))
    if reasons:
        print("left out: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    without = [name for index, name in enumerate(names) if not counts[index]]
    if without:
        print(f"classes without an object are never pasted: {', '.join(without)}")
    ForegroundBank(Path(cfg.bank.dir), cfg.data.num_classes)  # readable by the training


if __name__ == "__main__":
    run_program(main)

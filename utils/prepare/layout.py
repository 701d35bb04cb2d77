"""Bring files into a data set's folder: as links (no space) or as copies; a stopped run continues."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_path, remove_leftovers, write_text_atomic
from utils.runtime.parallel import map_progress

LINK, COPY = "link", "copy"
# Links and small copies take microseconds: several travel to a process together.
_CHUNK = 64

# Existing file, name it gets.
Placement = tuple[Path, Path]


def place_files(placements: Sequence[Placement], how: str, *, workers: int, what: str) -> int:
    """Place every file under its new name; returns how many were not there yet.

    Call it while owning the data set: what killed processes left half written is removed.
    A link that points to the same file, and a copy of the same size and time, are kept. A folder of the data set that is
    itself a link to the sources' folder is left as it is.

    Args:
        placements: (source, target) pairs.
        how: "link" (symbolic) or "copy".
        workers: processes; 0 is one per core.
        what: label of the progress.

    Raises:
        UserError: for a target folder that leads to a foreign place, or a file that cannot be read or written.
    """
    for folder in {target.parent for _, target in placements}:
        folder.mkdir(parents=True, exist_ok=True)
    sources = {target.parent: source.parent for source, target in placements}
    linked = {folder for folder, source in sources.items() if folder.is_symlink() and folder.resolve() == source.resolve()}
    todo = [p for p in placements if p[1].parent not in linked]
    for folder in {target.parent for _, target in todo}:
        remove_leftovers(own_folder(folder))
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    return sum(map_progress(partial(_place_chunk, how), chunks, workers=1 if how == LINK else workers, what=what))


def check_sources(files: Sequence[Path], what: str) -> None:
    """Check that all files of one folder are there, listing it once. Raises UserError naming the first that is not."""
    folder = files[0].parent
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        present = {entry.name for entry in entries if not entry.is_symlink() or Path(entry).exists()}
    missing = [path for path in files if path.name not in present]
    if missing:
        raise UserError(f"{missing[0]} is missing ({len(missing)} of {len(files)} {what} files are); complete the download")


def own_folder(folder: Path) -> Path:
    """Return `folder`, created. Raises UserError when it is a link: writing through it would change another data set."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link to {folder.resolve()}, which must not be written to; remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def up_to_date(target: Path, source: Path) -> bool:
    """Return whether `target` was made from the present `source`: it is a file of its own, and not older."""
    try:
        return not target.is_symlink() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _place_chunk(how: str, chunk: Sequence[Placement]) -> int:
    return sum(_place(source, target, how) for source, target in chunk)


def _place(source: Path, target: Path, how: str) -> bool:
    try:
        return _link(source, target) if how == LINK else _copy(source, target)
    except OSError as error:
        raise UserError(f"{source} cannot be placed at {target} ({error.strerror}); check both folders") from error


def _link(source: Path, target: Path) -> bool:
    place = _destination(source, target)
    if target.is_symlink() and str(target.readlink()) == place:
        return False
    with atomic_path(target, sync=False) as temporary:
        temporary.unlink()
        temporary.symlink_to(place)
    return True


def _destination(source: Path, target: Path) -> str:
    """Return what the link holds: a relative path inside one data set, so that it can be moved, else an absolute one."""
    real, root = source.resolve(), target.parent.parent.resolve()
    return os.path.relpath(real, target.parent.resolve()) if real.is_relative_to(root) else str(real)


def _copy(source: Path, target: Path) -> bool:
    found = source.stat()
    if target.exists() and not target.is_symlink():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
            return False
    with atomic_path(target, sync=False) as temporary:
        shutil.copy2(source, temporary)
    return True


# SHA-1 of the files as published, by set and file name.
PUBLISHED_SHA1 = {
    "voc12": {
        "train_cls.txt": "e2f3e9aeb45811da44d6357959d168f30c11b290",
        "val_cls.txt": "e363dd72bcc618c571e3a25306cac1f0749f740f",
        "train_aug.txt": "cefdb50466c397ec88fc018d3a87172478e4ec1e",
    },
    "coco14": {
        "train_cls.txt": "58b9bb716124b6f24c0ae241d35b2f65f9dcff9c",
        "val_cls.txt": "70f6b4bc76946bd5d675162d4d3c182e28fd6cb9",
    },
}

PUBLISHED_LINES = {
    "voc12": {"train_cls.txt": 10582, "val_cls.txt": 1449, "train_aug.txt": 10582, "train.txt": 1464, "val_aug.txt": 1449},
    "voc12_xml": {"train_cls.txt": 10582, "val_cls.txt": 1449},
    "coco14": {"train_cls.txt": 82081, "val_cls.txt": 40137, "val.txt": 40137},
    "wsfcn": {
        "train_augvoc.txt": 10582, "train_voc.txt": 1464, "val_voc.txt": 1449, "train14_new.txt": 82081, "val14_new.txt": 40137,
    },
}  # fmt: skip


def other_length(list_file: str | Path, images: int) -> str:
    """Return what to tell about a list named as one WS-FCN published but of another length; "" where there is nothing.

    (The published loaders refused any other length, so that a part of a set could not be used.)
    """
    known = PUBLISHED_LINES["wsfcn"].get(Path(list_file).name, images)
    return "" if images == known else f"{list_file} holds {images} images, the published list of this name {known}"


# Images per class, in the order of the class indices.
PUBLISHED_COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "voc12": {
        "train_cls.txt": (
            586, 486, 698, 461, 654, 385, 1086, 1000, 1081, 264, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548,
        ),
    },
    # By all annotated objects (CRT, IRN), not by masks.
    "voc12_xml": {
        "train_cls.txt": (
            590, 504, 705, 468, 714, 393, 1150, 1005, 1228, 267, 613, 1188, 445, 492, 4155, 522, 300, 649, 503, 567,
        ),
        "val_cls.txt": (90, 79, 103, 72, 96, 74, 127, 119, 123, 71, 75, 128, 79, 76, 445, 85, 57, 90, 84, 74),
    },
    "coco14": {
        "train_cls.txt": (
            45061, 2280, 8600, 2440, 2241, 2790, 2463, 4317, 2096, 2892, 1205, 1213, 480, 3842, 2215, 2641, 2879, 2062, 1099,
            1385, 1516, 667, 1324, 1797, 3885, 2742, 4791, 1695, 1618, 1498, 2209, 1168, 2712, 1624, 1795, 1853, 2511, 2343,
            2360, 5801, 1734, 6326, 2266, 2875, 2268, 4800, 1541, 1104, 1428, 1145, 1189, 1059, 766, 2037, 978, 1955, 8938,
            3168, 3082, 2537, 8375, 2317, 3181, 2452, 1255, 2135, 1461, 2517, 1082, 2003, 151, 3288, 1671, 3697, 3101, 2510,
            656, 1468, 128, 594,
        ),
        "val_cls.txt": (
            21585, 1110, 4173, 1219, 838, 1349, 1281, 2055, 1048, 1437, 592, 588, 260, 1961, 1108, 1382, 1435, 996, 488, 664,
            711, 341, 677, 848, 1804, 1391, 2244, 797, 874, 747, 993, 533, 1324, 727, 794, 829, 1092, 1291, 1190, 2825, 852,
            2963, 1041, 1281, 1087, 2278, 684, 452, 721, 531, 600, 524, 412, 1030, 491, 899, 4396, 1447, 1540, 1292, 3960,
            1185, 1575, 1227, 654, 1013, 745, 1320, 508, 989, 74, 1573, 790, 1798, 1675, 1193, 291, 712, 69, 275,
        ),
    },
}  # fmt: skip


def sha1_matches(dataset: str, name: str, content: bytes) -> bool | None:
    """Return whether a list's content is the published one byte for byte; None where no sum is known.

    Args:
        dataset: "voc12", "voc12_xml" or "coco14".
        name: file name, e.g. "train_cls.txt".
        content: the file's bytes.
    """
    expected = PUBLISHED_SHA1.get(dataset, {}).get(name)
    # Not for security: it is what the published files are known by.
    return None if expected is None else hashlib.sha1(content, usedforsecurity=False).hexdigest() == expected


Labels = Mapping[str, Sequence[int]]
_SHOWN = 5


def label_lines(labels: Labels, *, trailing_space: bool = False) -> str:
    """Return '<id> <class> <class> ...' lines, classes ascending, in the order given.

    Args:
        labels: id -> 0-based classes.
        trailing_space: end every line with a space, as the published VOC lists do.
    """
    end = " \n" if trailing_space else "\n"
    return "".join(" ".join([image_id, *map(str, sorted(classes))]) + end for image_id, classes in labels.items())


def pair_lines(ids: Iterable[str], label_dir: str, *, final_newline: bool = True) -> str:
    """Return '/JPEGImages/<id>.jpg /<label_dir>/<id>.png' lines; the published VOC files have no line end after the last."""
    text = "\n".join(f"/JPEGImages/{i}.jpg /{label_dir}/{i}.png" for i in ids)
    return text + "\n" if final_newline else text


def write_list(path: Path, text: str, dataset: str = "") -> str:
    """Write a list (atomically) and return one line about it: its length, and whether it is the published file.

    Args:
        path: file to write.
        text: its content.
        dataset: "voc12", "voc12_xml" or "coco14" to compare with; "" compares with nothing.
    """
    write_text_atomic(path, text)
    lines = len(text.splitlines())
    known = PUBLISHED_LINES.get(dataset, {}).get(path.name)
    count = f"{path.name:14} {lines:6} lines" + (f" (published {known})" if known is not None else "")
    same = sha1_matches(dataset, path.name, text.encode())
    return count if same is None else f"{count}, SHA-1 {'equal to' if same else 'DIFFERS from'} the published list's"


def images_per_class(labels: Labels, num_classes: int) -> list[int]:
    """Return how many images have each class."""
    counts = [0] * num_classes
    for classes in labels.values():
        for k in set(classes):
            counts[k] += 1
    return counts


def compare_counts(labels: Labels, names: Sequence[str], dataset: str, list_name: str) -> str:
    """Return one line: images per class against the published table, naming the classes that differ most.

    Args:
        labels: id -> 0-based classes.
        names: class names in index order.
        dataset: "voc12", "voc12_xml" or "coco14".
        list_name: published file the table belongs to, e.g. "train_cls.txt".
    """
    counts = images_per_class(labels, len(names))
    published = PUBLISHED_COUNTS.get(dataset, {}).get(list_name)
    total = f"{list_name}: {sum(counts)} labels on {len(labels)} images"
    if published is None or len(published) != len(counts):
        return total
    off = sorted(((abs(n - p), k) for k, (n, p) in enumerate(zip(counts, published, strict=True)) if n != p), reverse=True)
    if not off:
        return f"{total}; images per class equal the published table ({sum(published)} labels)"
    worst = ", ".join(f"{names[k]} {counts[k]} (published {published[k]})" for _, k in off[:_SHOWN])
    return f"{total}; {len(off)} of {len(counts)} classes differ from the published table: {worst}"

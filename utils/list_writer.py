"""Write image lists in the published formats, and say how they compare with the published files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.files import write_text_atomic
from utils.published_lists import PUBLISHED_COUNTS, PUBLISHED_LINES, sha1_matches

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
        dataset: "voc12" or "coco14" to compare with; "" compares with nothing.
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
        dataset: "voc12" or "coco14".
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

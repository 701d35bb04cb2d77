"""Read a run's lists without stopping at the first mistake, and say which files each image needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from configs.schema import Config
from utils.errors import UserError
from utils.findings import Finding, Findings
from utils.lists import list_lines, parse_id_line, parse_label_line

Line = TypeVar("Line")


@dataclass(slots=True)
class Entry:
    """One image and what must fit together.

    Attributes:
        id: of the image.
        classes: 0-based image labels; None where no list has them.
        train: it is in data.train_list.
        val: it is in a validation list.
        saliency: its saliency map is read.
        label: its ground truth is read.
    """

    id: str
    classes: tuple[int, ...] | None = None
    train: bool = False
    val: bool = False
    saliency: bool = False
    label: bool = False


def read_entries(cfg: Config, findings: Findings) -> dict[str, Entry]:
    """Return the images of all lists of a run, by id; what is wrong with the lists goes to `findings`."""
    entries: dict[str, Entry] = {}

    def entry(image_id: str) -> Entry:
        return entries.setdefault(image_id, Entry(image_id))

    data, has_truth = cfg.data, Path(cfg.data.root, cfg.data.label_dir).is_dir()
    train = _labels(Path(data.train_list), cfg, findings, stops=True, labels_required=True)
    for image_id, classes in train.items():
        found = entry(image_id)
        found.train, found.classes, found.saliency = True, classes, cfg.l2g.saliency == "map"
    listed = cfg.cam.labels == "list"
    for image_id, classes in _other(cfg, "infer_list", findings, train, labels_required=listed).items():
        entry(image_id).classes = classes or entry(image_id).classes
    labels = _other(cfg, "label_list", findings, train, labels_required=False)
    evaluated = _ids(Path(data.eval_list), findings)
    for image_id in evaluated:
        found = entry(image_id)
        found.label, found.classes = has_truth, labels.get(image_id) or found.classes
        found.saliency |= cfg.pseudo.fusion == "saliency"
        if listed and image_id not in labels:
            findings.add(
                Finding("no labels to evaluate with", f"{image_id} of data.eval_list is not in data.label_list", False)
            )
    for path in val_lists(cfg):
        for image_id, classes in _any_list(path, cfg, findings).items():
            found = entry(image_id)
            found.val, found.label, found.classes = True, has_truth, classes or found.classes
    _overlap(entries, findings)
    return entries


def val_lists(cfg: Config) -> list[Path]:
    """Return the validation lists that are there."""
    return [path for name in cfg.check.val_lists if (path := Path(cfg.data.root, name)).is_file()]


def _overlap(entries: dict[str, Entry], findings: Findings) -> None:
    for found in entries.values():
        if found.train and found.val:
            findings.add(
                Finding("in training and validation", f"{found.id} is in data.train_list and a validation list", False)
            )


def _other(
    cfg: Config, key: str, findings: Findings, train: dict[str, tuple[int, ...]], *, labels_required: bool
) -> dict[str, tuple[int, ...]]:
    """Return a label list; mostly it is the training list, whose mistakes are counted already."""
    path = Path(getattr(cfg.data, key))
    if path == Path(cfg.data.train_list):
        return train
    return _labels(path, cfg, findings, stops=False, labels_required=labels_required)


def _any_list(path: Path, cfg: Config, findings: Findings) -> dict[str, tuple[int, ...]]:
    if path.name.endswith("_cls.txt"):
        return _labels(path, cfg, findings, stops=False, labels_required=False)
    return dict.fromkeys(_ids(path, findings), ())


def _labels(path: Path, cfg: Config, findings: Findings, *, stops: bool, labels_required: bool) -> dict[str, tuple[int, ...]]:
    def parse(fields: list[str], place: str) -> tuple[str, tuple[int, ...]]:
        return parse_label_line(fields, place, cfg.data.num_classes, labels_required=labels_required)

    return dict(_lines(path, parse, lambda pair: pair[0], findings, stops))


def _ids(path: Path, findings: Findings) -> list[str]:
    return _lines(path, parse_id_line, lambda image_id: image_id, findings, False)


def _lines(
    path: Path, parse: Callable[[list[str], str], Line], id_of: Callable[[Line], str], findings: Findings, stops: bool
) -> list[Line]:
    """Return the lines that are right; the others become findings."""
    good: list[Line] = []
    seen: set[str] = set()
    try:
        for place, fields in list_lines(path):
            try:
                line = parse(fields, place)
            except UserError as error:
                findings.add(Finding("list line wrong", str(error), stops))
                continue
            if id_of(line) in seen:
                findings.add(Finding("id twice in a list", f"{place}: {id_of(line)}", stops))
                continue
            seen.add(id_of(line))
            good.append(line)
    except UserError as error:
        findings.add(Finding("list missing or unreadable", str(error), stops))
    return good

"""Decode the files of one image and see whether they fit each other."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from configs.schema import Config
from utils.data.classes import mask_classes
from utils.data.folder import DataFolder
from utils.data.images import Size, read_image, read_label_map, read_saliency
from utils.data.lists import file_of, list_lines, parse_id_line, parse_label_line
from utils.errors import UserError
from utils.files import parse_json, write_text_atomic
from utils.prepare.check_report import Finding, Findings
from utils.prepare.layout import other_length

Line = TypeVar("Line")


@dataclass(slots=True)
class Entry:
    """One image and what must fit together.

    Attributes:
        id: of the image.
        classes: 0-based image labels; None where no list has them (those of a training image then come from its mask).
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

    data, masks = cfg.data, cfg.data.labels_from == "masks"
    has_truth = data.paths == "lists" or file_of(Path(data.root, data.label_dir), "id", ".png").parent.is_dir()
    train = _labels(Path(data.train_list), cfg, findings, stops=True, labels_required=True)
    for image_id, classes in train.items():
        found = entry(image_id)
        found.train, found.classes, found.saliency = True, classes or None, cfg.settings.saliency == "map"
        found.label = masks
    listed = cfg.cam.labels == "list"
    for image_id, classes in _other(cfg, "infer_list", findings, train, labels_required=listed).items():
        entry(image_id).classes = classes or entry(image_id).classes
    labels = {} if masks else _other(cfg, "label_list", findings, train, labels_required=False)
    for image_id in [i for i, classes in train.items() if not classes and not masks]:
        entries[image_id].classes = labels.get(image_id)
        if not labels.get(image_id):
            findings.add(Finding("no labels to train with", f"{image_id} has none in data.label_list", True))
    evaluated = _ids(Path(data.eval_list), findings)
    for name, images in ((data.train_list, train), (data.eval_list, evaluated)):
        if message := other_length(name, len(images)):
            findings.add(Finding("list of another length", message, False))
    for image_id in evaluated:
        found = entry(image_id)
        found.label, found.classes = found.label or has_truth, labels.get(image_id) or found.classes
        found.saliency |= cfg.pseudo.fusion == "saliency"
        if listed and not masks and image_id not in labels:
            findings.add(
                Finding("no labels to evaluate with", f"{image_id} of data.eval_list is not in data.label_list", False)
            )
    for path in val_lists(cfg):
        for image_id, classes in _any_list(path, cfg, findings).items():
            found = entry(image_id)
            found.val, found.label, found.classes = True, found.label or has_truth, classes or found.classes
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
    """Return the labels of a list's lines; `()` for all of them where they come from elsewhere (`folder.read_labels`)."""

    def parse(fields: list[str], where: str) -> tuple[str, tuple[int, ...]]:
        if cfg.data.labels_from == "masks" or "/" in fields[0]:
            return parse_id_line(fields, where), ()
        return parse_label_line(fields, where, cfg.data.num_classes, labels_required=labels_required)

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
        for where, fields in list_lines(path):
            try:
                line = parse(fields, where)
            except UserError as error:
                findings.add(Finding("list line wrong", str(error), stops))
                continue
            if id_of(line) in seen:
                findings.add(Finding("id twice in a list", f"{where}: {id_of(line)}", stops))
                continue
            seen.add(id_of(line))
            good.append(line)
    except UserError as error:
        findings.add(Finding("list missing or unreadable", str(error), stops))
    return good


_DIGEST_BYTES = 8


@dataclass(slots=True)
class EntryReport:
    """What was found about one image.

    Attributes:
        id: of the image.
        signature: of the files' sizes and times and of all that was asked; the same signature gives the same report.
        digest: of the photo's bytes; "" when it cannot be read.
        findings: in the order found.
    """

    id: str
    signature: str
    digest: str
    findings: list[Finding]


def check_entry(source: DataFolder, entry: Entry, known: str) -> EntryReport | None:
    """Check one image; None when its signature is `known`, so that nothing has changed since.

    Args:
        source: the data folder.
        entry: what is asked about the image.
        known: signature of an earlier check; "" for none.
    """
    signature = _signature(source, entry)
    if signature == known:
        return None
    findings: list[Finding] = []
    digest, size = _check_image(source, entry, findings)
    if entry.saliency:
        _check_saliency(source, entry, size, findings)
    if entry.label:
        _check_label(source, entry, size, findings)
    return EntryReport(entry.id, signature, digest, findings)


def _signature(source: DataFolder, entry: Entry) -> str:
    parts = [str((source.num_classes, entry.classes, entry.train, entry.saliency, entry.label))]
    for path in (source.image(entry.id), source.saliency(entry.id), source.truth(entry.id)):
        try:
            found = path.stat()
            parts.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        except OSError:
            parts.append(f"{path} missing")
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _check_image(source: DataFolder, entry: Entry, findings: list[Finding]) -> tuple[str, Size | None]:
    path = source.image(entry.id)
    if not path.exists():
        findings.append(Finding("image missing", str(path), entry.train))
        return "", None
    try:
        size = read_image(path).size
        return hashlib.blake2b(path.read_bytes(), digest_size=_DIGEST_BYTES).hexdigest(), size
    except UserError as error:
        findings.append(Finding("image damaged", str(error), entry.train))
        return "", None


def _check_saliency(source: DataFolder, entry: Entry, size: Size | None, findings: list[Finding]) -> None:
    path = source.saliency(entry.id)
    if not path.exists():
        findings.append(Finding("saliency map missing", str(path), entry.train))
        return
    try:
        saliency = read_saliency(path, None)
    except UserError as error:
        findings.append(Finding("saliency map damaged", str(error), entry.train))
        return
    if size is not None and saliency.size != size:
        detail = f"{path} is {_by(saliency.size)}, the image {_by(size)}"
        findings.append(Finding("saliency map of another size", detail, entry.train))
    if saliency.getextrema() == (0, 0):
        findings.append(Finding("saliency map empty", f"{path} is 0 everywhere", False))


def _check_label(source: DataFolder, entry: Entry, size: Size | None, findings: list[Finding]) -> None:
    path, needed = source.truth(entry.id), entry.train and entry.classes is None
    if not path.exists():
        findings.append(Finding("ground truth missing", str(path), needed))
        return
    try:
        label = read_label_map(path, source.num_classes)
    except UserError as error:
        findings.append(Finding("ground truth damaged or out of range", str(error), needed))
        return
    if needed and not mask_classes(label):
        findings.append(Finding("no labels to train with", f"{path} shows no class", True))
    if size is not None and label.shape != size[::-1]:
        detail = f"{path} is {_by((label.shape[1], label.shape[0]))}, the image {_by(size)}"
        findings.append(Finding("ground truth of another size", detail, False))
    if entry.classes is not None:
        _compare_classes(entry.id, set(mask_classes(label)), set(entry.classes), findings)


def _compare_classes(image_id: str, present: set[int], listed: set[int], findings: list[Finding]) -> None:
    if present - listed:
        detail = f"{image_id}: classes {sorted(present - listed)} are in the mask and not in the list"
        findings.append(Finding("class missing in the list", detail, False))
    if listed - present:
        detail = f"{image_id}: classes {sorted(listed - present)} are in the list and not in the mask"
        findings.append(Finding("class without pixels", detail, False))


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


class CheckCache:
    """Reports of earlier checks, by image id.

    Args:
        path: file of the cache; None keeps nothing. A line that a killed process left unfinished is skipped.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.reports: dict[str, EntryReport] = {}
        self._lines = 0
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._lines += 1
                with contextlib.suppress(ValueError, TypeError):
                    image_id, signature, digest, findings = parse_json(line)
                    self.reports[image_id] = EntryReport(image_id, signature, digest, [Finding(*f) for f in findings])

    def signature(self, image_id: str) -> str:
        """Return the signature of the image's last check, "" without one."""
        report = self.reports.get(image_id)
        return report.signature if report else ""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Accept new reports inside; at the end outdated lines are dropped."""
        self._file: TextIO | None = None
        if self.path is not None:
            # A data folder may be read-only: checking works all the same.
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
                self._file.write("\n" if self._lines else "")
        try:
            yield
        finally:
            if self._file is not None:
                self._file.close()
        if self.path is not None and self._file is not None and self._lines > len(self.reports):
            write_text_atomic(self.path, "".join(_line(report) for report in self.reports.values()))

    def add(self, report: EntryReport) -> None:
        """Keep a new report."""
        self.reports[report.id] = report
        self._lines += 1
        if self._file is not None:
            self._file.write(_line(report))


def _line(report: EntryReport) -> str:
    findings = [astuple(finding) for finding in report.findings]
    return json.dumps([report.id, report.signature, report.digest, findings]) + "\n"

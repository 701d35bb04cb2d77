"""Decode the files of one image and see whether they fit each other."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from utils.check_lists import Entry
from utils.classes import mask_classes
from utils.errors import UserError
from utils.findings import Finding
from utils.images import Size, read_image, read_label_map, read_saliency

_DIGEST_BYTES = 8


@dataclass(frozen=True)
class CheckInput:
    """Where the files are: `<image_dir>/<id>.jpg`, `<saliency_dir>/<id>.png`, `<label_dir>/<id>.png`."""

    image_dir: Path
    saliency_dir: Path
    label_dir: Path
    num_classes: int


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


def check_entry(source: CheckInput, entry: Entry, known: str) -> EntryReport | None:
    """Check one image; None when its signature is `known`, so that nothing has changed since.

    Args:
        source: folders.
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


def _signature(source: CheckInput, entry: Entry) -> str:
    parts = [str((source.num_classes, entry.classes, entry.train, entry.saliency, entry.label))]
    for path in (_photo(source, entry), _saliency(source, entry), _label(source, entry)):
        try:
            found = path.stat()
            parts.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        except OSError:
            parts.append(f"{path} missing")
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _photo(source: CheckInput, entry: Entry) -> Path:
    return source.image_dir / f"{entry.id}.jpg"


def _saliency(source: CheckInput, entry: Entry) -> Path:
    return source.saliency_dir / f"{entry.id}.png"


def _label(source: CheckInput, entry: Entry) -> Path:
    return source.label_dir / f"{entry.id}.png"


def _check_image(source: CheckInput, entry: Entry, findings: list[Finding]) -> tuple[str, Size | None]:
    path = _photo(source, entry)
    if not path.exists():
        findings.append(Finding("image missing", str(path), entry.train))
        return "", None
    try:
        size = read_image(path).size
        return hashlib.blake2b(path.read_bytes(), digest_size=_DIGEST_BYTES).hexdigest(), size
    except UserError as error:
        findings.append(Finding("image damaged", str(error), entry.train))
        return "", None


def _check_saliency(source: CheckInput, entry: Entry, size: Size | None, findings: list[Finding]) -> None:
    path = _saliency(source, entry)
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


def _check_label(source: CheckInput, entry: Entry, size: Size | None, findings: list[Finding]) -> None:
    path = _label(source, entry)
    if not path.exists():
        findings.append(Finding("ground truth missing", str(path), False))
        return
    try:
        label = read_label_map(path, source.num_classes)
    except UserError as error:
        findings.append(Finding("ground truth damaged or out of range", str(error), False))
        return
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

"""Check a run's data before hours of training: lists, every file of every image, duplicates, disk space.

    python -m scripts.check_data --config configs/l2g_voc.yaml [key=value ...]
    python -m scripts.check_data --config configs/l2g_coco.yaml check.workers=16

Decodes every image, saliency map and ground truth of the run's lists (and of the validation lists beside them) on all
cores, and sees whether sizes, label values and image labels agree. What has not changed since the last check (by file size
and time) is not decoded again; a stopped check continues. Prints a table with the first ten offenders of every kind, writes
check.out, and leaves with exit code 2 when training would fail. scripts.train runs the cheap part of it at its start.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from configs.schema import Config
from utils.config import parse_args
from utils.data.folder import image_path
from utils.data.images import image_size
from utils.data.lists import read_id_list
from utils.errors import UserError, run_program
from utils.files import lock_folder, write_text_atomic
from utils.prepare.check import CheckCache, CheckInput, Entry, EntryReport, check_entry, read_entries, val_lists
from utils.prepare.check_report import Finding, Findings
from utils.prepare.disk import RunSize, bytes_needed, disk_findings
from utils.runtime.parallel import map_progress

CHUNK = 32
# Images whose headers are read to learn the mean size.
SIZE_SAMPLE = 32


def main(argv: list[str]) -> None:
    """Parse the command line and check.

    Raises:
        UserError: when training would fail.
    """
    result = run(parse_args(argv, __doc__ or ""))
    if not result["training_can_start"]:
        kinds = ", ".join(f"{kind['kind']} ({kind['stopping']})" for kind in result["findings"] if kind["stopping"])
        raise UserError(f"training would fail: {kinds}; see the table above")


def run(cfg: Config) -> dict[str, Any]:
    """Check everything; returns what `check.out` holds."""
    out, findings = Path(cfg.check.out), Findings()
    with lock_folder(out.parent):
        entries = read_entries(cfg, findings)
        decoded = _check_files(cfg, entries, findings)
        space = _check_disk(cfg, entries, findings)
        result = {
            "training_can_start": findings.stopping == 0,
            "images": len(entries),
            "decoded": decoded,
            "unchanged": len(entries) - decoded,
            "findings": findings.to_list(),
            "disk_bytes_needed": space,
        }
        write_text_atomic(out, json.dumps(result, indent=2) + "\n")
    print(findings.table())
    print(f"{len(entries)} images: {decoded} decoded, {len(entries) - decoded} unchanged since an earlier check; report: {out}")
    return result


def check_cheaply(cfg: Config, labels: Mapping[str, tuple[int, ...]] | None = None) -> list[str]:
    """Check what takes seconds at most: lists, existence (one folder listing), overlap with validation, free disk space.

    Args:
        cfg: of the run.
        labels: of an `L2GDataset` that is there already, which has checked the training list and its files; None: one is made.

    Returns:
        warnings: what is wrong without stopping training.

    Raises:
        UserError: when training would fail.
    """
    # Here, not above: worker processes import this module too, and need no torch.
    from utils.data.samples import L2GDataset

    labels = L2GDataset(cfg.data, cfg.l2g, cfg.seed).labels if labels is None else labels
    warnings = []
    for path in val_lists(cfg):
        try:
            both = [image_id for image_id in read_id_list(path) if image_id in labels]
        except UserError as error:  # training does not read it
            warnings.append(str(error))
            continue
        if both:
            warnings.append(f"{len(both)} images of data.train_list are in {path} too, the first: {both[0]}")
    entries = {image_id: Entry(image_id, classes, train=True) for image_id, classes in labels.items()}
    findings = disk_findings(_needs(cfg, entries), Path(cfg.run_dir, "model"))
    for finding in findings:
        if finding.stops:
            raise UserError(f"disk too small: {finding.detail}")
    return warnings + [finding.detail for finding in findings]


def _check_files(cfg: Config, entries: Mapping[str, Entry], findings: Findings) -> int:
    """Check the files of all images; returns how many images were decoded."""
    root = Path(cfg.data.root)
    source = CheckInput(
        root / cfg.data.image_dir, root / cfg.data.saliency_dir, root / cfg.data.label_dir, cfg.data.num_classes
    )
    cache = CheckCache(Path(cfg.check.cache) if cfg.check.cache else None)
    first: dict[str, Entry] = {}
    decoded = 0
    with cache.writing():
        reports = _reports(source, list(entries.values()), cache, cfg.check.workers)
        for entry, report in zip(entries.values(), reports, strict=True):
            if report is not None:
                cache.add(report)
                decoded += 1
            known = cache.reports[entry.id]
            for finding in known.findings:
                findings.add(finding)
            if known.digest:
                _compare(entry, first.setdefault(known.digest, entry), findings)
    return decoded


def _compare(entry: Entry, first: Entry, findings: Findings) -> None:
    """Note that two ids have the same picture."""
    if entry is not first:
        across = (entry.train and first.val) or (entry.val and first.train)
        kind = "same picture in training and validation" if across else "same picture twice"
        findings.add(Finding(kind, f"{entry.id} is {first.id} byte for byte", False))


def _reports(source: CheckInput, entries: list[Entry], cache: CheckCache, workers: int) -> Iterator[EntryReport | None]:
    pairs = [(entry, cache.signature(entry.id)) for entry in entries]
    chunks = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    what = f"check ({CHUNK} images each)"
    for reports in map_progress(partial(check_chunk, source), chunks, workers=workers, what=what):
        yield from reports


def check_chunk(source: CheckInput, pairs: Iterable[tuple[Entry, str]]) -> list[EntryReport | None]:
    """Check a few (image, known signature) pairs in this process; see `check_entry`."""
    return [check_entry(source, entry, known) for entry, known in pairs]


def _check_disk(cfg: Config, entries: Mapping[str, Entry], findings: Findings) -> dict[str, int]:
    needs = _needs(cfg, entries)
    for finding in disk_findings(needs, Path(cfg.run_dir, "model")):
        findings.add(finding)
    return dict(needs.values())


def _needs(cfg: Config, entries: Mapping[str, Entry]) -> dict[Path, tuple[str, int]]:
    train = [entry for entry in entries.values() if entry.train]
    labels = sum(len(entry.classes or ()) for entry in train)
    size = RunSize(len(train), labels, len(train), _mean_pixels(cfg, train), _parameters(cfg))
    return bytes_needed(cfg, size)


def _mean_pixels(cfg: Config, entries: list[Entry]) -> float:
    step = max(1, len(entries) // SIZE_SAMPLE)
    pixels = []
    for entry in entries[::step]:
        try:
            width, height = image_size(image_path(cfg.data, entry.id))
        except UserError:
            continue  # reported elsewhere
        pixels.append(width * height)
    return sum(pixels) / len(pixels) if pixels else 0.0


def _parameters(cfg: Config) -> int:
    """Return the parameters of one network, from its shapes alone."""
    # Here, not above: worker processes import this module too, and need no networks.
    import torch

    from scripts.build import build_network

    with torch.device("meta"):
        return sum(p.numel() for p in build_network(cfg).parameters())


if __name__ == "__main__":
    run_program(main)

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
from scripts.build import parse_args
from utils.data.folder import DataFolder
from utils.errors import UserError, run_program, user_errors
from utils.files import lock_folder, write_text_atomic
from utils.prepare.check import CheckCache, Entry, EntryReport, check_entry, read_entries, val_lists
from utils.prepare.check_report import Finding, Findings
from utils.prepare.disk import disk_findings, run_needs
from utils.runtime.parallel import map_progress

CHUNK = 32


def main(argv: list[str]) -> None:
    """Parse the command line and check. Raises UserError when training would fail."""
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


def _check_files(cfg: Config, entries: Mapping[str, Entry], findings: Findings) -> int:
    """Check the files of all images; returns how many images were decoded."""
    lists = (cfg.data.train_list, cfg.data.infer_list, cfg.data.eval_list, *map(str, val_lists(cfg)))
    source = DataFolder.of(cfg.data, *(path for path in lists if Path(path).is_file()))
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


def _reports(source: DataFolder, entries: list[Entry], cache: CheckCache, workers: int) -> Iterator[EntryReport | None]:
    pairs = [(entry, cache.signature(entry.id)) for entry in entries]
    chunks = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    what = f"check ({CHUNK} images each)"
    for reports in map_progress(partial(check_chunk, source), chunks, workers=workers, what=what):
        yield from reports


def check_chunk(source: DataFolder, pairs: Iterable[tuple[Entry, str]]) -> list[EntryReport | None]:
    """Check a few (image, known signature) pairs in this process; see `check_entry`."""
    return [check_entry(source, entry, known) for entry, known in pairs]


def _check_disk(cfg: Config, entries: Mapping[str, Entry], findings: Findings) -> dict[str, int]:
    needs = run_needs(cfg, entries, parameter_count(cfg))
    for finding in disk_findings(needs, Path(cfg.run_dir, "model")):
        findings.add(finding)
    return dict(needs.values())


def parameter_count(cfg: Config) -> int:
    """Return the parameters of the run's networks, from their shapes alone."""
    # Here, not above: worker processes import this module too, and need no networks.
    import torch

    from models.method import find_method

    with torch.device("meta"), user_errors():
        return sum(p.numel() for network in find_method(cfg.method)(cfg).networks().values() for p in network.parameters())


if __name__ == "__main__":
    run_program(main)

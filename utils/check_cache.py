"""What earlier checks found, one line an image; lines are added as the check goes on, so that a stopped one continues."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TextIO

from utils.check_files import EntryReport
from utils.files import write_text_atomic
from utils.findings import Finding


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
                    image_id, signature, digest, findings = json.loads(line)
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

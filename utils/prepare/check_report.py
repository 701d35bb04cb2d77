"""What a check found: counts by kind, the first offenders of each, and whether training would fail."""

from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """One offender.

    Attributes:
        kind: short name, the same for all offenders of the kind.
        detail: one sentence that names the offender.
        stops: training would fail because of it.
    """

    kind: str
    detail: str
    stops: bool


@dataclass
class _Kind:
    count: int = 0
    stopping: int = 0
    first: list[str] = field(default_factory=list)


class Findings:
    """Counts findings; keeps only the first few of each kind, so that memory stays the same however many there are."""

    def __init__(self) -> None:
        self.kinds: dict[str, _Kind] = {}

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        kind = self.kinds.setdefault(finding.kind, _Kind())
        kind.count += 1
        # Offenders that stop training are shown before others.
        if finding.stops:
            kind.first.insert(min(kind.stopping, SHOWN), finding.detail)
        else:
            kind.first.append(finding.detail)
        kind.stopping += finding.stops
        del kind.first[SHOWN:]

    @property
    def stopping(self) -> int:
        """Return how many findings would make training fail."""
        return sum(kind.stopping for kind in self.kinds.values())

    def table(self) -> str:
        """Return the findings as text: a line a kind, below it its first offenders."""
        if not self.kinds:
            return "nothing found"
        lines = [f"{'finding':32} {'count':>7}  stops training"]
        for name, kind in self._ordered():
            stops = f"yes, {kind.stopping}" if kind.stopping else "no"
            lines.append(f"{name:32} {kind.count:>7}  {stops}")
            lines += [f"    {detail}" for detail in kind.first]
            if kind.count > SHOWN:
                lines.append(f"    ... and {kind.count - SHOWN} more")
        return "\n".join(lines)

    def to_list(self) -> list[dict[str, Any]]:
        """Return {"kind", "count", "stopping", "first"} of every kind, those that stop training first."""
        return [{"kind": name, **asdict(kind)} for name, kind in self._ordered()]

    def _ordered(self) -> list[tuple[str, _Kind]]:
        return sorted(self.kinds.items(), key=lambda item: (-item[1].stopping, item[0]))

"""What every schema is made of: keys that carry their own documentation, and rules between them."""

from dataclasses import dataclass, field
from typing import Any


def key(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field with its default, its meaning (unit and range) and, where it is a choice, the values."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Checked:
    """Base of the top-level schemas."""

    def rules(self) -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values that would otherwise fail late or silently."""
        return []

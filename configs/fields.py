"""What every schema is made of: keys that carry their own documentation, and rules between them."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Any, TypeVar, cast

Schema = TypeVar("Schema", bound="Checked")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low` and `open_high` leave these out themselves."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in the range; infinite ones and NaN never do."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        """Return e.g. "> 0", "in [0, 1)" or "finite"."""
        if math.isinf(self.low):
            return "finite"
        if math.isinf(self.high):
            return f"{'>' if self.open_low else '>='} {self.low}"
        return f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"


FINITE, POSITIVE, NOT_NEGATIVE, COUNT = Range(), Range(0, open_low=True), Range(0), Range(1)
UNIT, SHARE, BELOW_ONE = Range(0, 1), Range(0, 1, open_low=True), Range(0, 1, open_high=True)
GREY = Range(0, 256)  # 256: above every level
# Integers have 64 bits in torch.
MOST = 2.0**63
# Beyond these a machine fails in ways of its own (memory, threads) that name no key.
SIDE, PROCESSES, SEED = Range(1, 8192), Range(0, 1024), Range(0, 2**63 - 1)


def key(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    within: Range = FINITE,
    filled: bool = False,
    free: bool = False,
) -> Any:
    """Return a dataclass field with what there is to know about a key.

    Args:
        default: its value where nothing is said.
        help: its meaning, with the unit.
        choices: the values of a choice.
        within: the numbers it takes; of a list, each of them.
        filled: a text that must not be empty.
        free: a training that is resumed may have another value; all others are those it began with.
    """
    metadata = {"help": help, "choices": choices, "within": within, "filled": filled, "free": free}
    return _field(default, metadata)


def _field(default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def again(section: type, name: str, default: Any) -> Any:
    """Return the dataclass field of key `name` of `section` with another default, for a section that inherits from it."""
    return _field(default, next(entry.metadata for entry in fields(section) if entry.name == name))


@dataclass
class Checked:
    """Base of schemas and of sections with rules of their own; `source` is the file a configuration was read from."""

    source = ""  # no field: no annotation

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values that would otherwise fail late or silently.

        Args:
            name: what its keys have before them in messages, e.g. "l2g.".
        """
        return []


def broken_rules(section: Any, name: str = "") -> Iterator[str]:
    """Yield the messages of the rules that `section` and the sections in it do not hold."""
    if isinstance(section, Checked):
        yield from (message for holds, message in section.rules(name) if not holds)
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            yield from broken_rules(value, f"{name}{entry.name}.")


def broken_values(section: Any, name: str = "") -> Iterator[str]:
    """Yield, for each value of `section` and the sections in it that its key does not take, what was expected."""
    for entry in fields(section):
        value, full = getattr(section, entry.name), f"{name}{entry.name}"
        if is_dataclass(value):
            yield from broken_values(value, f"{full}.")
            continue
        choices, within = entry.metadata.get("choices", ()), entry.metadata.get("within", FINITE)
        values = value if isinstance(value, list) else [value]
        numbers = [v for v in values if isinstance(v, (int, float))]
        if choices and value not in choices:
            yield f"{full} is '{value}', expected one of {', '.join(choices)}"
        elif entry.metadata.get("filled") and not str(value).strip():
            yield f"{full} is empty, expected {entry.metadata['help'].partition(';')[0]}"
        elif isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value):
            yield f"{full} is {value}, expected a list without lists in it"
        elif not all(number in within for number in numbers):
            yield f"{full} is {value}, expected {'numbers ' if isinstance(value, list) else ''}{within}"
        elif any(isinstance(number, int) and abs(number) >= MOST for number in numbers):
            yield f"{full} is {value}, expected at most {int(MOST) - 1}"


def compose(schema: type[Schema], sections: Mapping[str, type]) -> type[Schema]:
    """Return `schema` with further sections: what a method or a refiner keeps beside itself.

    Args:
        schema: top-level schema.
        sections: YAML section -> dataclass; those `schema` has already stay as they are.
    """
    known = {entry.name for entry in fields(schema)}
    new = tuple((name, kind) for name, kind in sections.items() if name not in known)
    composed: type[Schema] = _composed(cast(Any, schema), new)
    return composed


@functools.cache  # the same sections are the same class, so that configurations can be compared
def _composed(schema: Any, sections: tuple[tuple[str, type], ...]) -> Any:
    more = [(name, kind, field(default_factory=kind)) for name, kind in sections]
    return make_dataclass(schema.__name__, more, bases=(schema,)) if more else schema

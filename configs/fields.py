"""What every schema is made of: keys that carry their own documentation, and rules between them."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Any, TypeVar, cast

Schema = TypeVar("Schema", bound="Checked")


def key(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """Return a dataclass field with its default, its meaning (unit and range) and, where it is a choice, the values."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Checked:
    """Base of schemas and of sections with rules of their own."""

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

"""Published settings in terms of ours: a table of keys for each published system (`configs.published_*`), one reader."""

import ast
import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import Config


@dataclass(frozen=True)
class Row:
    """A published key.

    Attributes:
        default: the published one, which a file that does not name the key relies on; also says of which type its values are.
        key: ours; empty: it has no effect here, or is translated together with others.
        convert: its value to ours.
        choices: values there are; empty: any of the type.
    """

    default: Any
    key: str = ""
    convert: Callable[[Any], Any] = lambda value: value
    choices: tuple[Any, ...] = ()


class Joined:
    """Published values; knows which were asked for."""

    def __init__(self, values: Mapping[str, Any], rows: Mapping[str, Row]) -> None:
        self.values, self.rows, self.asked = values, rows, set[str]()

    def any(self, *keys: str) -> bool:
        """Return whether one of these is given."""
        return any(key in self.values for key in keys)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.values.get(key, self.rows[key].default)


@dataclass(frozen=True)
class Published:
    """How a published system is told what to do.

    Attributes:
        methods: ours of it.
        file: the flag that names its YAML file.
        bases: configuration a published run starts from, by --dataset; the first one is the default.
        rows: published key, or flag, -> what becomes of it. Overrides of keys are pairs, KEY VALUE.
        flags: further flags -> the overrides their value goes into.
        together: ours of the keys that go into several, or several of which go into one, for the configuration overridden.
        no_default: keys of the data set, not of the program: a file that does not name them says nothing about them.
    """

    methods: tuple[str, ...]
    file: str
    bases: Mapping[str, str]
    rows: Mapping[str, Row]
    flags: Mapping[str, tuple[str, ...]]
    together: Callable[[Joined, Config], Iterable[tuple[str, Any]]]
    no_default: Collection[str] = ()

    @property
    def own_flags(self) -> set[str]:
        """Return the flags that tell its command lines."""
        return {self.file, *self.flags, *(key for key in self.rows if key.startswith("--"))}


def translate(system: Published, given: Mapping[str, Any], base: Config, *, whole: bool) -> tuple[list[str], list[str]]:
    """Return published settings as `key=value` overrides of ours, and the names of those given that have no effect here.

    As published, texts that are Python literals count as these, and lists and tuples are the same. A whole number may stand for
    a fraction.

    Args:
        system: whose settings they are.
        given: dotted published key, or flag -> value.
        base: the configuration that is overridden.
        whole: they are a whole file, so keys it does not name have their published defaults.

    Raises:
        ValueError: for an unknown key, a value of another type, or one that is none of the choices, as a default can be.
    """
    rows = system.rows
    defaults = {key: row.default for key, row in rows.items() if key not in system.no_default} if whole else {}
    values = {key: _checked(rows, key, value) for key, value in {**defaults, **given}.items()}
    ours = {row.key: row.convert(values[key]) for key, row in rows.items() if row.key and key in values}
    joined = Joined(values, rows)
    ours |= dict(system.together(joined, base))
    unused = [key for key in given if not rows[key].key and key not in joined.asked]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in ours.items()}
    return [f"{key}={text}" for key, text in texts.items()], unused


def _checked(rows: Mapping[str, Row], key: str, value: Any) -> Any:
    if key not in rows:
        section = key.partition(".")[0]
        near = [known for known in rows if known.partition(".")[0] == section] or [known for known in rows if "." in known]
        raise ValueError(f"published key '{key}' is unknown; known are {', '.join(near)}")
    row = rows[key]
    if isinstance(value, str) and not isinstance(row.default, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    value = list(value) if isinstance(value, tuple) else value
    kinds = (int, float) if isinstance(row.default, float) else (type(row.default),)
    if type(value) not in kinds:
        kind = type(row.default).__name__
        raise ValueError(f"published key '{key}' is {value!r}, expected a value of type {kind} such as {row.default!r}")
    if row.choices and value not in row.choices:
        raise ValueError(f"published key '{key}' is {value!r}, expected one of {', '.join(map(str, row.choices))}")
    return value

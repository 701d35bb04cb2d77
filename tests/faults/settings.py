"""Settings that are wrong: every key of every schema, out of its range, of a wrong type, empty, misspelt."""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from configs.deeplab_schema import DeepLabConfig
from configs.fields import FINITE, Range
from scripts.build import config_schema
from tests.faults.mill import REFUSED, WHOLE, Fault, Program


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a schema: dotted name, type, range of its numbers, choices, and whether a text must not be empty."""

    name: str
    kind: Any
    within: Range
    choices: tuple[str, ...]
    filled: bool


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Yield all keys of a schema."""
    hints = get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint, name = hints[entry.name], f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        told = entry.metadata
        yield Key(name, hint, told.get("within", FINITE), told.get("choices", ()), bool(told.get("filled")))


def schema_of(program: Program, method: str) -> type:
    """Return the schema a program's configuration is checked against."""
    return DeepLabConfig if program.module.startswith("deeplab") else config_schema({"method": method})


def _outside(within: Range) -> list[str]:
    below = [] if math.isinf(within.low) else [within.low if within.open_low else within.low - 1]
    above = [] if math.isinf(within.high) else [within.high if within.open_high else within.high + 1]
    return [f"{value:g}" if abs(value) < 1e6 else str(int(value)) for value in (*below, *above)]


_WRONG_TYPES = {
    int: ("1.5", "many", "[1]", "{a: 1}", "null", "", ".inf", "99999999999999999999"),
    float: ("much", "[1]", "{a: 1}", "null", "", ".nan", ".inf"),
    bool: ("perhaps", "2", "[true]", "{a: 1}", "null", ""),
    list[int]: ("many", "[1.5]", "[x]", "[[1]]", "{a: 1}", "null", "[null]"),
    list[float]: ("much", "[x]", "[[1]]", "{a: 1}", "null", "[.nan]", "[null]"),
}


def wrong_values(key: Key) -> list[str]:
    """Return texts that `key=<text>` must be refused with."""
    wrong = list(_WRONG_TYPES.get(key.kind, ()))
    if key.kind in (int, float):
        wrong += _outside(key.within)
    elif key.kind in (list[int], list[float]):
        wrong += [f"[{value}]" for value in _outside(key.within)]
    elif key.choices:
        wrong += ["nonsense", "", "[a]", "{a: 1}"]
    elif key.filled:
        wrong += ["", "  "]
    return wrong


def wrong_settings(program: Program, key: Key) -> Iterator[Fault]:
    """Yield a key with every wrong value, misspelt, and with values in the file that an argument cannot hold."""
    for text in wrong_values(key):
        yield Fault("settings", f"{key.name}={text}", program, arguments=(f"{key.name}={text}",), names=(key.name,))
    yield Fault("settings", f"{key.name}x=1", program, arguments=(f"{key.name}x=1",), names=(f"{key.name}x",))
    checked = key.kind in _WRONG_TYPES or bool(key.choices)
    for value in (None, {"a": [None]}):
        if checked or value is not None:
            yield Fault(
                "settings", f"in the file: {key.name}: {value}", program, partial(_set, config_of(program), key.name, value),
                names=(key.name,), expect=REFUSED if checked and value is not None else WHOLE,  # null: as if it was not there
            )  # fmt: skip


def wrong_arguments(program: Program) -> Iterator[Fault]:
    """Yield arguments that are no settings, and values where sections are."""
    for section in program.settings[1:]:
        for text in ("1", "text", "[]", "[1]"):
            yield Fault("settings", f"{section}={text}", program, arguments=(f"{section}={text}",), names=(section,))
    for argument in ("=1", ".=1", "a..b=1", "--nonsense", "nonsense", "-x"):
        yield Fault("settings", argument, program, arguments=(argument,))


def config_of(program: Program) -> str:
    """Return the configuration a program is given."""
    places = [n for n, argument in enumerate(program.arguments) if argument in ("--config", "--config-path")]
    return program.arguments[places[0] + 1]


def _set(config: str, name: str, value: Any, folder: Path) -> None:
    content = yaml.safe_load((folder / config).read_text())
    inside = content
    *sections, last = name.split(".")
    for section in sections:
        inside = inside.setdefault(section, {})
    inside[last] = value
    (folder / config).write_text(yaml.safe_dump(content))


# What would run for ever, or makes other processes.
_LONG = ("compile", "epochs", "iter_max", "workers", "num_workers", "threads", "patches")


def extreme_values(key: Key) -> list[str]:
    """Return the smallest and largest values a key takes, and some that are odd though they are allowed."""
    if key.name.rpartition(".")[2] in _LONG:
        return []
    low, high = key.within.low, key.within.high
    if key.kind is bool:
        return ["true", "false"]
    if key.kind is int:
        return [str(int(v)) for v in (low, high) if math.isfinite(v) and v < 1e6] + ([] if math.isfinite(high) else ["1000000"])
    if key.kind is float:
        least = 1e-30 if key.within.open_low or math.isinf(low) else low
        most = 1e30 if math.isinf(high) else high if not key.within.open_high else 0.999999
        return [f"{least:g}", f"{most:g}", *(["-1e30"] if math.isinf(low) else [])]
    if key.kind in (list[int], list[float]):
        return ["[]", "[1]", "[1,1]", "[1,1,1]", "[1,1,1,1]"]
    return list(key.choices) or ([] if key.filled else ["''", "nonsense", "/", "..", "a\nb"])


def extreme_settings(program: Program, key: Key) -> Iterator[Fault]:
    """Yield the ends of a key's range: the program works, or says in a sentence why not."""
    for text in extreme_values(key):
        yield Fault("ends of ranges", f"{key.name}={text}", program, arguments=(f"{key.name}={text}",), expect=WHOLE)

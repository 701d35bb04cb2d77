"""Read, check and describe configurations (OmegaConf structured configs over the dataclasses of `configs.schema`)."""

import copy
import dataclasses
import functools
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from configs.fields import FINITE, Checked, broken_rules, broken_values
from utils.errors import UserError
from utils.files import only_file, write_text_atomic

Schema = TypeVar("Schema", bound=Checked)
# A schema, or what finds it by the raw content (lower-case keys) of the file and the overrides: `method` picks a section.
Schemas = type[Schema] | Callable[[Mapping[str, Any]], type[Schema]]
# The segmentation stage's published option, accepted by every program.
# No configuration is as large.
MOST_VALUES, MOST_DEPTH = 10_000, 20
CONFIG_OPTIONS = ("--config", "--config-path", "-c")
# Between key and value of an argument that a file's own value wins over.
DEFAULT = "?="
# How a training is started says nothing about what it follows from.
STARTS = ("train.resume", "train.overwrite")


def parse_schema_args(argv: list[str], doc: str, schema: Schemas[Schema]) -> Schema:
    """Turn `--config FILE [key=value ...]` into a checked `schema`; `--help` prints `doc` and every key, then exits.

    `key?=value` is a default: it counts where neither the file, its bases nor another argument say anything.

    Raises:
        UserError: for a missing file, an unknown key, a wrong type or a value that is not among the choices.
    """
    path: str | None = None
    overrides: list[str] = []
    wants_help = False
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("-h", "--help"):
            wants_help = True
        elif argument in CONFIG_OPTIONS:
            path = next(arguments, None)
            if path is None:
                raise UserError(f"{argument} needs a file: {argument} configs/<name>.yaml")
        elif argument.startswith(("--config=", "--config-path=")):
            path = argument.partition("=")[2]
        elif argument.startswith("-") or "=" not in argument:
            raise UserError(f"argument '{argument}' is neither --config FILE nor key=value; see --help")
        else:
            overrides.append(argument)
    if wants_help:
        print(describe(doc, _chosen(schema, _updates(path, overrides))))
        raise SystemExit(0)
    if path is None:
        raise UserError("no configuration given; add --config configs/<name>.yaml (see --help)")
    return load_schema(path, overrides, schema)


def load_schema(path: str | Path, overrides: list[str] | None, schema: Schemas[Schema]) -> Schema:
    """Merge defaults, the YAML file `path` and `key=value` overrides into a checked, fully resolved `schema`.

    A file may start with `base: other.yaml` (relative to itself): it then holds only what differs from that file.

    Raises:
        UserError: one sentence naming file or override, key and what was expected.
    """
    updates = _updates(path, overrides)
    kind: Any = _chosen(schema, updates)
    config = copy.deepcopy(_structured(kind))
    for update in updates:
        values, empty = (update.values, []) if update.argument else _filled(kind, update.values)
        if empty and os.environ.get("RANK", "0") == "0":
            print(f"{update.source}: keys without a value count as not there: {', '.join(empty)}", file=sys.stderr)
        content = _with_texts(kind, values, update.texts, argument=update.argument)
        _merge(config, content, update.source)
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_first_line(error)}; check the ${{...}} references") from error
    if not isinstance(resolved, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(resolved)}")
    resolved.source = str(path)
    for message in itertools.chain(broken_values(resolved), broken_rules(resolved)):
        raise UserError(f"{path}: {message}")
    return resolved


@functools.cache  # building one takes longer than copying it
def _structured(kind: Any) -> Any:
    return OmegaConf.structured(kind)


class _Loader(yaml.SafeLoader):
    """YAML without dates, which no key takes."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Update(NamedTuple):
    """What a file or an argument sets: nested keys in lower case, with values as YAML reads them and as they are written."""

    source: str
    values: dict[str, Any]
    texts: dict[str, Any]
    argument: bool = False


def _updates(path: str | Path | None, overrides: list[str] | None) -> list[Update]:
    """Return what the file, its bases first, and the overrides set."""
    files = [] if path is None else _with_bases(Path(path))
    given = overrides or []
    defaults = [_parse_override(each.replace(DEFAULT, "=", 1)) for each in given if _is_default(each)]
    return defaults + files + [_parse_override(each) for each in given if not _is_default(each)]


def _is_default(override: str) -> bool:
    return override.partition("=")[0].endswith(DEFAULT[0])


def _chosen(schema: Schemas[Schema], updates: list[Update]) -> type[Schema]:
    if isinstance(schema, type):
        return schema
    raw: dict[str, Any] = {}
    for update in updates:
        raw = _overlaid(raw, update.values)
    return schema(raw)


def _overlaid(first: Any, second: Any) -> Any:
    """Return `second`, or where both are dictionaries, `first` with what `second` holds."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    return first | {name: _overlaid(first.get(name), value) for name, value in second.items()}


def save_config(config: Checked, path: Path) -> None:
    """Write the resolved configuration as YAML (atomic), so that a run can be repeated from its own folder.

    Its first line names the file it was read from: scripts/config_of.sh reads that.
    """
    write_text_atomic(
        path,
        f"# from {config.source}\n" * bool(config.source)
        + yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True),
    )


def flat_settings(config: Checked) -> dict[str, Any]:
    """Return dotted key -> value of a configuration, as stage cards hold it."""
    return flatten(dataclasses.asdict(config))


def lasting_settings(config: Checked, sections: Collection[str]) -> tuple[dict[str, Any], set[str]]:
    """Return what a training follows from, and which of it may differ when it is resumed.

    Args:
        config: a configuration.
        sections: those that training reads; keys outside of sections are read as well.

    Returns:
        dotted key -> value, and the keys that may change (`configs.fields.key`).
    """
    values, kept, may_change = flat_settings(config), dict[str, Any](), set[str]()
    for name, _, _, metadata in _walk(type(config)):
        if ("." not in name or name.partition(".")[0] in sections) and name not in STARTS:
            kept[name] = values.get(name)
            if metadata.get("free"):
                may_change.add(name)
    return kept, may_change


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def describe(doc: str, schema: type[Checked]) -> str:
    """Return `doc` followed by one entry per key: name, type, default, meaning and choices."""
    lines = [doc.strip(), "", "keys (key=value overrides the YAML file, key?=value is used where it says nothing):", ""]
    for name, kind, default, metadata in _walk(schema):
        choices = f" One of: {', '.join(metadata['choices'])}." if metadata.get("choices") else ""
        within = f"; {limits}" if (limits := metadata.get("within", FINITE)) != FINITE else ""
        lines.append(f"  {name} ({kind}, default {default})")
        meaning = metadata.get("help", "") + within + choices
        lines.extend(textwrap.wrap(meaning, 110, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def _walk(kind: type, prefix: str = "") -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    hints = get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
            continue
        factory = entry.default_factory
        default = entry.default if factory is dataclasses.MISSING else factory()
        label = str(hint).removeprefix("typing.") if hasattr(hint, "__args__") or hint is Any else hint.__name__
        yield f"{prefix}{entry.name}", label, repr(default).replace("'", '"'), dict(entry.metadata)


def read_flat(path: str | Path) -> dict[str, Any]:
    """Return a YAML file's values by dotted key, in lower case, unchecked. Raises UserError where it holds none."""
    return flatten(_read_yaml(Path(path)).values)


def _with_bases(path: Path) -> list[Update]:
    """Return what the files set from the outermost base to `path`."""
    chain, seen = [_read_yaml(path)], [path]
    while (base := chain[0].texts.get("base")) is not None:
        parent = seen[-1].parent / str(base)
        if parent in seen:
            raise UserError(f"{path}: 'base' entries form a circle through {parent}; remove one of them")
        chain.insert(0, _read_yaml(parent))
        seen.append(parent)
    return chain


def _read_yaml(path: Path) -> Update:
    try:
        text = only_file(path).read_text(encoding="utf-8")
        values, texts = yaml.load(text, _Loader), yaml.load(text, yaml.BaseLoader)
        _check_size(values)
    except OSError as error:
        raise UserError(f"configuration file {path} cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return Update(str(path), {}, {})
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, expected keys and values")
    update = Update(str(path), _fold_case(values), _fold_case(texts))
    if update.values.pop("base", None) is None:
        update.texts.pop("base", None)
    return update


def _check_size(content: Any) -> None:
    """Refuse what would take for ever or too deep a recursion to go through, as aliases (*name) can make it."""
    waiting, seen = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MOST_DEPTH or seen > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values or nested more than {MOST_DEPTH} deep, aliases written out")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting.extend((item, depth + 1) for item in inside)


def _fold_case(value: Any) -> Any:
    """Lower-case all keys: published files write them in capitals."""
    if isinstance(value, dict):
        return {str(key).lower(): _fold_case(item) for key, item in value.items()}
    return value


def _parse_override(override: str) -> Update:
    name, _, text = override.partition("=")
    source = f"argument '{override}'"
    if not all(parts := name.split(".")):
        raise UserError(f"{source} is not key=value: '{name}' is no key; see --help")
    try:
        value = yaml.load(text, _Loader) if text else text  # the shell drops the quotes of key='': an empty text, not null
        _check_size(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    *sections, last = parts
    values: dict[str, Any] = {last: value}
    texts: dict[str, Any] = {last: text}
    for section in reversed(sections):
        values, texts = {section: values}, {section: texts}
    return Update(source, values, texts, argument=True)


def _filled(kind: Any, values: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return what a file gives values to, and the dotted keys it leaves empty, as the skeletons of published files do.

    Where a key takes anything (an optional size), null is a value.
    """
    hints, filled, empty = get_type_hints(kind), dict[str, Any](), list[str]()
    for name, value in values.items():
        hint = hints.get(name, Any)  # unknown keys are told when they are merged
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            filled[name], inside = _filled(hint, value, f"{prefix}{name}.")
            empty += inside
        elif value is None and hint is not Any:
            empty.append(f"{prefix}{name}")
        else:
            filled[name] = value
    return filled, empty


def _with_texts(kind: Any, values: Mapping[str, Any], texts: Any, *, argument: bool) -> dict[str, Any]:
    """Return `values` with what is written wherever `kind` has a text: 2024_01_15, 007 and on stay what they are."""
    hints, known = get_type_hints(kind), {entry.name: entry for entry in dataclasses.fields(kind)}
    merged = dict(values)
    for name in values.keys() & known.keys():
        value, text = values[name], texts.get(name) if isinstance(texts, dict) else None
        if not dataclasses.is_dataclass(hints[name]):
            merged[name] = _as_text(known[name], hints[name], value, text, argument=argument)
        elif isinstance(value, dict):
            merged[name] = _with_texts(hints[name], value, text, argument=argument)
    return merged


def _as_text(entry: dataclasses.Field[Any], hint: Any, value: Any, text: Any, *, argument: bool) -> Any:
    """Return `text` where a key takes texts, or lists of them, else `value`; null is a text in an argument only."""
    texts_or_lists = hint is Any and isinstance(entry.default, str)
    if isinstance(value, list) and (hint == list[str] or texts_or_lists):
        items = yaml.load(text, yaml.BaseLoader) if isinstance(text, str) else text
        pairs = zip(value, items or value, strict=False)
        return [item if isinstance(item, str) and found is not None else found for found, item in pairs]
    if hint is bool and isinstance(value, int) and value not in (0, 1):
        return f"{value}, a number"  # which OmegaConf would take as true
    if not isinstance(text, str) or not (hint is str or texts_or_lists) or (value is None and not argument):
        return value
    choices = entry.metadata.get("choices", ())
    return text.lower() if text not in choices and text.lower() in choices else text


def _merge(config: Any, update: Mapping[str, Any], source: str) -> None:
    try:
        config.merge_with(update)
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise UserError(f"{source}: unknown key '{error.full_key}'; `--help` lists the known ones") from error
    except ValidationError as error:
        raise UserError(f"{source}: key '{error.full_key}': {_first_line(error)}") from error
    except TypeError as error:
        place = _misfit(config, update)
        raise UserError(f"{source}: key '{place}' is keys and values, expected a list, or the other way round") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {_first_line(error)}") from error


def _misfit(config: Any, update: Mapping[str, Any]) -> str:
    """Return the first key of which one is a list and the other keys and values."""
    for name, value in update.items():
        there = OmegaConf.select(config, name)
        if isinstance(value, dict) and OmegaConf.is_dict(there):
            if inside := _misfit(there, value):
                return f"{name}.{inside}"
        elif isinstance(value, dict) and OmegaConf.is_list(there) or isinstance(value, list) and OmegaConf.is_dict(there):
            return name
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Read, check and describe configurations (OmegaConf structured configs over the dataclasses of `configs.schema`)."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from configs.fields import Checked, broken_rules
from utils.errors import UserError
from utils.files import write_text_atomic

Schema = TypeVar("Schema", bound=Checked)
# A schema, or what finds it by the raw content (lower-case keys) of the file and the overrides: `method` picks a section.
Schemas = type[Schema] | Callable[[Mapping[str, Any]], type[Schema]]
# The segmentation stage's published option, accepted by every program.
# No configuration is as large.
MOST_VALUES, MOST_DEPTH = 10_000, 20
CONFIG_OPTIONS = ("--config", "--config-path", "-c")


def parse_schema_args(argv: list[str], doc: str, schema: Schemas[Schema]) -> Schema:
    """Turn `--config FILE [key=value ...]` into a checked `schema`; `--help` prints `doc` and every key, then exits.

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
    kind = _chosen(schema, updates)
    config = OmegaConf.structured(kind)
    for source, update in updates:
        config = _merge(config, update, source)
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_first_line(error)}; check the ${{...}} references") from error
    if not isinstance(resolved, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(resolved)}")
    _check_choices(resolved, str(path))
    for message in broken_rules(resolved):
        raise UserError(f"{path}: {message}")
    return resolved


def _updates(path: str | Path | None, overrides: list[str] | None) -> list[tuple[str, DictConfig]]:
    """Return (where it is from, content) of the file, its bases first, and of the overrides."""
    files = [] if path is None else [(str(file), _read_yaml(file)) for file in _with_bases(Path(path))]
    return files + [(f"argument '{override}'", _parse_override(override)) for override in overrides or []]


def _chosen(schema: Schemas[Schema], updates: list[tuple[str, DictConfig]]) -> type[Schema]:
    if isinstance(schema, type):
        return schema
    raw: dict[str, Any] = {}
    for _, update in updates:
        content = OmegaConf.to_container(update, resolve=False)
        if isinstance(content, dict):
            raw |= {str(name): value for name, value in content.items()}
    return schema(raw)


def save_config(config: Checked, path: Path) -> None:
    """Write the resolved configuration as YAML (atomic), so that a run can be repeated from its own folder."""
    write_text_atomic(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True))


def flat_settings(config: Checked) -> dict[str, Any]:
    """Return dotted key -> value of a configuration, as stage cards hold it."""
    return _flatten(dataclasses.asdict(config))


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def describe(doc: str, schema: type[Checked]) -> str:
    """Return `doc` followed by one entry per key: name, type, default, meaning and choices."""
    lines = [doc.strip(), "", "keys (key=value overrides the YAML file):", ""]
    for name, kind, default, metadata in _walk(schema):
        choices = f" One of: {', '.join(metadata['choices'])}." if metadata.get("choices") else ""
        lines.append(f"  {name} ({kind}, default {default})")
        lines.extend(
            textwrap.wrap(metadata.get("help", "") + choices, 110, initial_indent="      ", subsequent_indent="      ")
        )
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


def _with_bases(path: Path) -> list[Path]:
    """Return the chain of files from the outermost base to `path`."""
    chain = [path]
    while (base := _read_yaml(chain[0], keep_base=True).get("base")) is not None:
        parent = chain[0].parent / str(base)
        if parent in chain:
            raise UserError(f"{path}: 'base' entries form a circle through {parent}; remove one of them")
        chain.insert(0, parent)
    return chain


def _read_yaml(path: Path, keep_base: bool = False) -> DictConfig:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_size(content)
    except OSError as error:
        raise UserError(f"configuration file {path} cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected keys and values")
    folded = _fold_case(content)
    if not keep_base:
        folded.pop("base", None)
    return OmegaConf.create(folded)


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


def _parse_override(override: str) -> DictConfig:
    key, _, value = override.partition("=")
    try:
        if value == "":  # the shell drops the quotes of key='': an empty text, not null
            return _nested(key, value)
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"argument '{override}' is not key=value: {_first_line(error)}") from error


def _nested(key: str, value: str) -> DictConfig:
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    return config


def _merge(config: Any, update: DictConfig, source: str) -> Any:
    try:
        return OmegaConf.merge(config, update)
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise UserError(f"{source}: unknown key '{error.full_key}'; `--help` lists the known ones") from error
    except ValidationError as error:
        raise UserError(f"{source}: key '{error.full_key}': {_first_line(error)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_choices(config: Any, source: str, prefix: str = "") -> None:
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            _check_choices(value, source, f"{prefix}{entry.name}.")
        choices = entry.metadata.get("choices", ())
        if choices and value not in choices and str(value).lower() in choices:
            value = str(value).lower()  # YAML reads the choice `true` as a boolean, which becomes the text "True"
            setattr(config, entry.name, value)
        if choices and value not in choices:
            raise UserError(f"{source}: {prefix}{entry.name} is '{value}', expected one of {', '.join(choices)}")

"""Read, check and describe configurations (OmegaConf structured configs over the dataclasses of `configs.schema`)."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from configs.fields import Checked
from configs.schema import Config
from utils.errors import UserError
from utils.files import write_text_atomic

Schema = TypeVar("Schema", bound=Checked)
# The segmentation stage's published option, accepted by every program.
CONFIG_OPTIONS = ("--config", "--config-path", "-c")


def parse_args(argv: list[str], doc: str) -> Config:
    """Turn `--config FILE [key=value ...]` into a checked `Config` of the first stage; see `parse_schema_args`."""
    return parse_schema_args(argv, doc, Config)


def parse_schema_args(argv: list[str], doc: str, schema: type[Schema]) -> Schema:
    """Turn `--config FILE [key=value ...]` into a checked `schema`; `--help` prints `doc` and every key, then exits.

    Raises:
        UserError: for a missing file, an unknown key, a wrong type or a value that is not among the choices.
    """
    path: str | None = None
    overrides: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("-h", "--help"):
            print(describe(doc, schema))
            raise SystemExit(0)
        if argument in CONFIG_OPTIONS:
            path = next(arguments, None)
            if path is None:
                raise UserError(f"{argument} needs a file: {argument} configs/<name>.yaml")
        elif argument.startswith(("--config=", "--config-path=")):
            path = argument.partition("=")[2]
        elif argument.startswith("-") or "=" not in argument:
            raise UserError(f"argument '{argument}' is neither --config FILE nor key=value; see --help")
        else:
            overrides.append(argument)
    if path is None:
        raise UserError("no configuration given; add --config configs/<name>.yaml (see --help)")
    return load_schema(path, overrides, schema)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Load a first-stage configuration; see `load_schema`."""
    return load_schema(path, overrides, Config)


def load_schema(path: str | Path, overrides: list[str] | None, schema: type[Schema]) -> Schema:
    """Merge defaults, the YAML file `path` and `key=value` overrides into a checked, fully resolved `schema`.

    A file may start with `base: other.yaml` (relative to itself): it then holds only what differs from that file.

    Raises:
        UserError: one sentence naming file or override, key and what was expected.
    """
    config = OmegaConf.structured(schema)
    for file in _with_bases(Path(path)):
        config = _merge(config, _read_yaml(file), str(file))
    for override in overrides or []:
        config = _merge(config, _parse_override(override), f"argument '{override}'")
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_first_line(error)}; check the ${{...}} references") from error
    if not isinstance(resolved, schema):
        raise TypeError(f"expected {schema.__name__}, got {type(resolved)}")
    _check_choices(resolved, str(path))
    for holds, message in resolved.rules():
        if not holds:
            raise UserError(f"{path}: {message}")
    return resolved


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


def describe(doc: str, schema: type[Checked] = Config) -> str:
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
    except OSError as error:
        raise UserError(f"configuration file {path} cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected keys and values")
    folded = _fold_case(content)
    if not keep_base:
        folded.pop("base", None)
    return OmegaConf.create(folded)


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
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
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

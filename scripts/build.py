"""Wiring shared by the programs: configuration to method, networks and weights.

Networks are imported where they are built: worker processes of programs without networks import this module too.
"""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.fields import compose
from configs.published import Published, translate
from configs.published_wsfcn import WSFCN
from configs.published_wsol import WSOL
from configs.schema import Config
from models.refiners import build_cam_refiner, build_refiner, refiner_names, refiner_sections
from utils.cams.refinement import Refinement
from utils.config import CONFIG_OPTIONS, load_schema, parse_schema_args, read_flat
from utils.errors import UserError, user_errors
from utils.runtime.device import compile_in_place

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models.method import Method


PUBLISHED = (WSFCN, WSOL)
# Of published command lines, whichever system they are of; pairs KEY VALUE need no flag.
PAIRS, DATASET = "--set", "--dataset"


def config_schema(content: Mapping[str, Any]) -> type[Config]:
    """Return the schema for a configuration's raw content: all shared sections, and that of the `method` it names."""
    from models.method import find_method

    with user_errors():
        method = find_method(str(content.get("method", Config.method)))
    section = method.section or method.name
    named = [_inside(content, "pseudo", "refine"), _inside(content, "refine", "by")]
    schema = compose(Config, {section: method.Settings, **refiner_sections(named)})
    schema.section = section
    return schema


def _inside(content: Mapping[str, Any], section: str, key: str) -> Any:
    inside = content.get(section)
    return inside.get(key) if isinstance(inside, Mapping) else None


def parse_args(argv: list[str], doc: str) -> Config:
    """Turn `--config FILE [key=value ...]` into a checked `Config`; see `utils.config.parse_schema_args`.

    Arguments of published programs are taken as well: the flag of their YAML file, pairs `KEY VALUE`, and the flags of
    `configs.published_*`. What they say comes before `key=value` arguments.
    """
    return parse_schema_args(_translated(argv), doc, config_schema)


def _translated(argv: list[str]) -> list[str]:
    """Return a command line with published arguments in terms of ours."""
    left, ours, pairs, values = list(argv), list[str](), dict[str, str](), dict[str, str]()
    known = {DATASET}.union(*(system.own_flags for system in PUBLISHED))
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        if flag in (*CONFIG_OPTIONS, *known):
            if not equals and not left:
                raise UserError(f"{flag} needs a value")
            values["--config" if flag in CONFIG_OPTIONS else flag] = value if equals else left.pop(0)
        elif equals or word.startswith("-"):
            ours += [] if word == PAIRS else [word]
        elif not left:
            word = ours[-1] if ours and ours[-1].startswith("-") else word  # a flag nobody knows, and its value
            raise UserError(f"argument '{word}' is neither --config FILE nor key=value, and as a published KEY has no VALUE")
        else:
            pairs[word] = left.pop(0)
    if not pairs and not values.keys() - {"--config"}:
        return argv
    system = _system_of(values, pairs, ours)
    dataset = values.get(DATASET, next(iter(system.bases)))
    if dataset not in system.bases:
        raise UserError(f"--dataset is {dataset}, expected one of {', '.join(system.bases)}")
    path = values.get("--config", system.bases[dataset])
    ours = [text.format(values[flag]) for flag, texts in system.flags.items() if flag in values for text in texts] + ours
    given = {**{flag: value for flag, value in values.items() if flag in system.rows}, **pairs}
    base = load_config(path, [o for o in ours if "=" in o])
    return ["--config", path, *_published(system, values.get(system.file, ""), given, base), *ours]


def _system_of(values: Mapping[str, str], pairs: Mapping[str, str], ours: list[str]) -> Published:
    """Return whose command line it is: by its flags, else by the method of the configuration its pairs override."""
    flags = values.keys() - {"--config", DATASET}
    if flags:
        found = next((system for system in PUBLISHED if flags <= system.own_flags), None)
        if found is None:
            raise UserError(f"{' and '.join(sorted(flags))} are of different published programs")
        return found
    if "--config" not in values:
        return WSFCN
    method = load_config(values["--config"], [each for each in ours if "=" in each]).method
    found = next((system for system in PUBLISHED if method in system.methods), None)
    if found is None:
        raise UserError(f"argument '{next(iter(pairs), DATASET)}' is no key=value, and method={method} has no published keys")
    return found


def _published(system: Published, file: str, given: Mapping[str, str], base: Config) -> list[str]:
    """Return a published file and its overrides as overrides of `base`; names on stderr what has no effect."""
    content = {**({key.upper(): value for key, value in read_flat(file).items()} if file else {}), **given}
    try:
        overrides, unused = translate(system, content, base, whole=bool(file))
    except ValueError as error:
        raise UserError(f"{file or 'published settings'}: {error}") from error
    if unused and os.environ.get("RANK", "0") == "0":
        print(f"published settings without effect here: {', '.join(unused)}", file=sys.stderr)
    return overrides


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Load a first-stage configuration; see `utils.config.load_schema`."""
    return load_schema(path, overrides, config_schema)


def build_refinement(names: Any, cfg: Config) -> Refinement:
    """Return the refiners that `pseudo.refine` or `refine.by` names.

    Raises:
        UserError: for an unknown name, an order they cannot run in, or what one of them does not accept.
    """
    with user_errors():
        walk, others = build_cam_refiner(names, cfg)
        return Refinement(walk, build_refiner(others, cfg), refiner_names(names))


def build_method(cfg: Config, device: "torch.device", *, initial: bool = True) -> "Method":
    """Build the configured method on `device`, in the memory layouts that suit its networks.

    Args:
        cfg: the run.
        device: where it will run.
        initial: load the initial weights; False where a checkpoint follows: their file need not be there any more.
    """
    from models.layers.lean import training_format
    from models.method import find_method

    with user_errors():
        method = find_method(cfg.method)(cfg)
    files = method.pretrained(cfg)
    for key, network in method.networks().items():
        if initial:
            load_initial_weights(network, cfg, key, files.get(key))
        network.to(device).to(memory_format=training_format(network, device))
        if cfg.compile:
            compile_in_place(_trunk(network), device, sizes_vary=False)  # crops and losses stay uncompiled
    return method.to(device)


def build_inference_network(cfg: Config, network: str = "global") -> "nn.Module":
    """Build, with random weights, the network CAMs come from (`models.method.ScoreNetwork`)."""
    from models.method import find_method

    with user_errors():
        return find_method(cfg.method).inference_network(cfg, network)


def build_boundary_network(cfg: Config) -> "nn.Module":
    """Build, with random weights, the network boundaries come from (`models.irn.IrnNetwork`)."""
    from models.method import find_method

    with user_errors():
        return find_method(cfg.method).boundary_network(cfg)


def compile_inference(network: "nn.Module", device: "torch.device") -> None:
    """Have the network's trunk compiled for pictures of any size."""
    compile_in_place(_trunk(network), device, sizes_vary=True)


def load_initial_weights(network: "nn.Module", cfg: Config, key: str = "state_dict", pretrained: str | None = None) -> None:
    """Load `train.init_from` (a whole network, strict) or else a weight file of the whole trunk; heads start at random.

    Args:
        network: what to load into.
        cfg: the run.
        key: its name in checkpoints; `train.init_local` says which network of `train.init_from` the local one starts from.
        pretrained: the trunk's file, "": none; None: `model.pretrained`.
    """
    from models.cam_net import new_keys
    from utils.training.weights import NETWORK_KEYS, load_weights, read_weights

    if cfg.train.init_from:
        source = next(name for name, dictionary in NETWORK_KEYS.items() if dictionary == key)
        source = cfg.train.init_local if source == "local" else source
        load_weights(network, read_weights(cfg.train.init_from, source), source=cfg.train.init_from)
    elif pretrained := cfg.model.pretrained if pretrained is None else pretrained:
        state, source = _trunk_weights(cfg, pretrained)
        classifier = getattr(_trunk(network), "classifier_keys", ())
        load_weights(
            network,
            state,
            source=source,
            allow_missing=[*cfg.model.allow_missing, *new_keys(network)],
            allow_unexpected=[*cfg.model.allow_unexpected, *classifier],
        )


def _trunk_weights(cfg: Config, pretrained: str) -> "tuple[dict[str, torch.Tensor], str]":
    """Return what `model.pretrained` or a key like it names, and what that is; fetched weights are logged."""
    from utils.training.hub import HUB, TIMM_PREFIX, hub_weights
    from utils.training.weights import read_weights

    if pretrained != HUB and not pretrained.startswith(TIMM_PREFIX):
        return read_weights(pretrained), pretrained
    log = logging.getLogger("l2g")
    found = hub_weights(cfg.model.backbone if pretrained == HUB else pretrained)
    log.info("trunk from %s", found.source)
    if advice := found.advice(cfg.data.mean, cfg.data.std):
        log.warning("%s; set data.mean and data.std", advice)
    return found.state, found.source


def _trunk(network: "nn.Module") -> "nn.Module":
    trunk: nn.Module = getattr(network, "backbone", network)
    return trunk

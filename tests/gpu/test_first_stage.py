"""Every method, preset, option and trunk of the first stage on a GPU that need not be there."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from configs.cam_schema import CamConfig
from configs.schema import Config, ModelConfig, SampleConfig
from models.backbones import TRUNKS
from models.layers.attention import ATTENTIONS
from models.method import find_method
from scripts.build import load_config
from tests.gpu.first_stage import NO_FILES, methods, preset_of, preset_path, presets, run_maps, run_method
from utils.errors import UserError

# The quickest trunk, for options about what stands on it; where a method does not take it, its preset's own.
QUICK = "model.backbone=vgg16 model.suppression_places=[features] model.attention_places=[features]"
TIMM = ("timm:resnet18", "timm:convnext_atto")
# A network each way; the other methods build the same ones.
NETWORKS = ("cam", "bsl")
CHOSEN = {preset_path(name) for name in methods()}


def _others() -> list[Path]:
    """Return one preset of each method, trunk and what is added to it, beside those that methods are run with."""
    found: dict[Any, Path] = {}
    for path in [*sorted(CHOSEN), *presets()]:
        cfg = load_config(path)
        model, paste = cfg.model, cfg.settings.paste
        added = (model.suppression, model.attention, model.freeze_bn, paste.mode, paste.leak_labels)
        found.setdefault((cfg.method, model.backbone, *added), path)
    return [path for path in found.values() if path not in CHOSEN]


@pytest.mark.parametrize("name", methods())
def test_steps_validation_and_maps_of_every_method(name: str) -> None:
    run_method(preset_of(name, "train.classify_epochs=1"))


@pytest.mark.parametrize("path", _others(), ids=lambda path: path.stem)
def test_a_step_of_every_phase_of_the_other_presets(path: Path) -> None:
    run_method(load_config(path, NO_FILES), maps=False)


def rounds(schema: type, section: str, *, inherited: type = object, alone: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield overrides in which each value of each choice and switch occurs: all keys' second values, their third ones, ...

    Args:
        schema: a section's dataclass; sections inside of it are followed.
        section: its name.
        inherited: keys of this one are left out.
        alone: keys whose values come one by one.
    """
    known = {entry.name for entry in fields(inherited)} if is_dataclass(inherited) else set()
    values: dict[str, list[str]] = {}
    for entry in fields(schema):
        offered = entry.metadata.get("choices") or ([False, True] if isinstance(entry.default, bool) else ())
        if entry.name not in known:
            values[entry.name] = [f"{section}.{entry.name}={value}" for value in offered if value != entry.default]
            if is_dataclass(inner := entry.default_factory):
                yield from rounds(inner, f"{section}.{entry.name}")
    yield from (value for name in alone for value in values.pop(name))
    yield from (" ".join(value for value in together if value) for together in zip_longest(*values.values()))


def run_each(name: str, wanted: list[str], run: Callable[[Config], None]) -> set[str]:
    """Run a method with each of several overrides; return those it took. What it refuses, in a sentence, is told apart."""
    taken = set()
    for overrides in wanted:
        for trunk in (QUICK, ""):
            try:
                run(preset_of(name, *f"{trunk} {overrides}".split()))
            except UserError:
                continue
            taken.add(overrides)
            break
    return taken


@pytest.mark.parametrize("name", sorted({find_method(name).section or name for name in methods()}))
def test_every_option_of_a_method(name: str) -> None:
    own = [*rounds(find_method(name).Settings, name, inherited=SampleConfig), f"{name}.saliency=none"]
    assert run_each(name, own, lambda cfg: run_method(cfg, maps=False)) == set(own)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_of_a_network(name: str) -> None:
    checkpointed, first, *others = rounds(ModelConfig, "model", alone=("checkpoint_activations",))
    wanted = [f"{first} model.attention={'+'.join(ATTENTIONS)}", *others, "precision=bf16", "precision=fp32"]
    assert run_each(name, [*wanted, checkpointed], lambda cfg: run_method(cfg, maps=False)) >= set(wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_of_map_making(name: str) -> None:
    *alone, together = rounds(CamConfig, "cam", alone=("network", "activation", "merge", "size"))
    crops = "cam.crop_size=[64,64] cam.pad_size=[96,96] cam.label_power=3 cam.merge=mean"
    wanted = [*alone, together, crops, "cam.refine_dir=maps"]
    wanted += ["cam.label_dir= cam.size=network", "cam.label_dir= cam.top=2"]
    taken = run_each(name, [f"cam.scales=[1.0] {overrides}" for overrides in wanted], run_maps)
    assert {f"cam.scales=[1.0] {overrides}" for overrides in (together, wanted[-1])} <= taken


@pytest.mark.parametrize("backbone", [*TRUNKS, *TIMM])
@pytest.mark.parametrize("name", ["cam", "bsl"])
def test_every_trunk(name: str, backbone: str) -> None:
    for stride in (8, 16):
        try:
            return run_method(preset_of(name, f"model.backbone={backbone}", f"model.output_stride={stride}"), maps=False)
        except UserError:
            continue
    pytest.fail(f"{backbone} runs with neither output stride")


def test_a_method_without_a_preset_is_told(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="is a configuration of method=wsfcn: add configs/wsfcn_<data>.yaml"):
        preset_of("wsfcn", folder=tmp_path)

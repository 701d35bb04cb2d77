"""CDL's networks and steps against the published ones: names, numbers, gradients, parameter groups."""

import functools
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from configs.deeplab_schema import DeepLabConfig
from deeplab.affinity import similarity
from deeplab.cdl import ExpertLosses
from deeplab.losses import resize_labels
from deeplab.network import Experts, MultiScaleExperts, build_deeplab, segmentation_groups
from tests.golden_weights import filled
from utils.runtime.processes import Dist

GOLDEN = Path(__file__).parents[1] / "golden" / "cdl"
SCALES = ("1x", "0.5x", "0.75x", "fused")


@functools.cache
def build(variant: str) -> MultiScaleExperts:
    """Return a published network with the fixtures' weights (see their README), its wrapper training, dropout not."""
    cfg = DeepLabConfig(method=f"cdl_{variant}")
    cfg.cdl.train_affinity = True  # the fixture has the gradients that the published CDL-e never applied
    network = build_deeplab(cfg).eval()
    state = filled(network.state_dict())
    for key, value in state.items():
        state[key] = value * 4 if "aspp" in key else value * 0.05 if key == "base.affinity_3rd.reduce_dim.weight" else value
    network.load_state_dict(state)
    network.training = True
    return cast(MultiScaleExperts, network)


@pytest.mark.parametrize("variant", ["b", "e"])
def test_names_and_shapes_are_published(variant: str) -> None:
    with torch.device("meta"):
        network = build_deeplab(DeepLabConfig(method=f"cdl_{variant}"))
    published = json.loads((GOLDEN / f"state_dict_cdl_{variant}.json").read_text())
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == published
    assert len(published) == {"b": 689, "e": 697}[variant]


@pytest.mark.parametrize("variant", ["b", "e"])
def test_outputs_equal_published(variant: str) -> None:
    golden = np.load(GOLDEN / "model_forward.npz")
    images, strong = (torch.from_numpy(golden[name]) for name in ("x", "x_aug"))
    network = build(variant)
    with torch.no_grad():
        network.training = False
        if variant == "b":
            np.testing.assert_allclose(network(images), golden["b_eval"], atol=5e-3)
        else:  # the third head alone says what is tested
            np.testing.assert_allclose(network(images), golden["e_eval_same"], atol=5e-3)
            np.testing.assert_allclose(network(strong), golden["e_eval"], atol=5e-3)
        network.training = True
        items = network(images, strong)
    for scale, item in zip(SCALES, items, strict=True):
        for number, logits in enumerate(item.logits, 1):
            np.testing.assert_allclose(logits, golden[f"{variant}_head{number}_{scale}"], atol=5e-3)
        features = item.features.flatten(2)
        whole = torch.stack([similarity(f, f, cosine=variant == "b") for f in features])
        np.testing.assert_allclose(whole[:, ::4, ::4], golden[f"{variant}_affinity_{scale}"], atol=5e-3)
        summary = [whole.mean(), whole.min(), whole.max()]
        np.testing.assert_allclose(summary, golden[f"{variant}_affinity_{scale}_meanmax"], atol=5e-3)


def test_parameter_groups_are_the_published_ones() -> None:
    expected = {"cdl_b": [104, 8, 21], "cdl_e": [104, 12, 12], "trained": [104, 12, 25]}
    for name, counts in expected.items():
        cfg = DeepLabConfig(method="cdl_e" if name == "trained" else name)
        cfg.cdl.train_affinity = name == "trained"
        with torch.device("meta"):
            groups = segmentation_groups(build_deeplab(cfg), cfg.solver.weight_decay)
        assert [len(group["params"]) for group in groups] == counts
        assert [(g["lr_scale"], g["weight_decay"]) for g in groups] == [(1.0, 5e-4), (10.0, 5e-4), (20.0, 0.0)]


def test_the_affinity_teaches_the_trunk_nothing() -> None:
    cfg = DeepLabConfig(method="cdl_b")
    cfg.model.name, cfg.model.backbone, cfg.model.width = "DeepLabV2_Backbone_MSC", "resnet38", 0.0625
    network = build_deeplab(cfg).train()
    base = cast(Experts, network.base)
    torch.stack([item.features.square().mean() for item in network(torch.randn(2, 3, 64, 48))]).sum().backward()
    assert all(p.grad is None for p in base.backbone.parameters())
    assert all(p.grad is not None for p in base.affinity.parameters())
    assert not any(m.training for m in base.affinity.modules() if isinstance(m, torch.nn.BatchNorm2d))
    shapes = {key: value.shape[0] for key, value in base.affinity.state_dict().items() if key.endswith(".0.weight")}
    assert [shapes[f"aff_conv_{level}.0.weight"] for level in (3, 4, 5)] == [32, 64, 128]


# case -> iteration, of how many, with ImageNet weights
CASES = {
    "warm": (1, 20000, False),
    "at_start": (2000, 20000, False),
    "refresh": (2001, 20000, False),
    "imagenet_it50": (50, 30000, True),
    "imagenet_refresh": (3001, 30000, True),
}


@pytest.mark.parametrize("variant", ["b", "e"])
def test_steps_equal_published(variant: str) -> None:
    golden = np.load(GOLDEN / "train_step.npz")
    images, strong = torch.from_numpy(golden["x"]), torch.from_numpy(golden["x_aug"])
    network = build(variant)
    items = network(images, strong)
    labels = torch.from_numpy(golden["labels"]).long()
    given = [resize_labels(labels, item.logits[0].shape[2:]) for item in items]
    names = cast(Experts, network.base).published_names
    parameters = {
        f"base.{names.get(key.removeprefix('base.'), key.removeprefix('base.'))}": p for key, p in network.named_parameters()
    }
    for case, (step, steps, imagenet) in CASES.items():
        cfg = DeepLabConfig(method=f"cdl_{variant}")
        cfg.solver.iter_max, cfg.thresholds.imagenet_init = steps, imagenet
        module = ExpertLosses(cfg, network, Dist(0, 1, 0, torch.device("cpu")))
        refreshed = module.refreshed(items, given) if module.refreshes(step) else None
        losses = module.losses(items, given, refreshed, step, 1.0)
        for index, scale in enumerate(SCALES):
            tag = f"{variant}_{case}_{scale}"
            assert (f"{tag}_refreshed" in golden) == (refreshed is not None)
            if refreshed is not None:
                np.testing.assert_array_equal(refreshed[index].labels, golden[f"{tag}_refreshed"])
                np.testing.assert_array_equal(refreshed[index].credible, golden[f"{tag}_credible"])
            for name, letters in {"affinity": "aff", "expert_1": "l1", "expert_2": "l2", "expert_3": "l3"}.items():
                assert (name in losses) == (f"{tag}_{letters}" in golden)
                if name in losses:
                    np.testing.assert_allclose(losses[name][index].detach(), golden[f"{tag}_{letters}"], rtol=1e-3, atol=1e-6)
        total = module.total(losses, step) / cfg.solver.iter_size
        np.testing.assert_allclose(total.detach(), golden[f"{variant}_{case}_loss"], rtol=1e-3)
        # Normalisation of the trunk is frozen here; the gradient of the trunk costs most of the time, so one case has it.
        prefix = f"{variant}_{case}_gradnorm/"
        wanted = [k.removeprefix(prefix) for k in golden.files if k.startswith(prefix)]
        wanted = [name for name in wanted if case == "refresh" or "layer" not in name]
        gradients = torch.autograd.grad(total, [parameters[name] for name in wanted], retain_graph=True)
        for name, gradient in zip(wanted, gradients, strict=True):
            np.testing.assert_allclose(gradient.norm(), golden[prefix + name], rtol=1e-2)
        assert len(wanted) >= 7

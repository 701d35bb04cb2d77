"""Networks against the published ones: key names, shapes, parameter groups, numbers."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.backbones.resnet import ResNet
from models.cam_net import CamNetwork, build_cam_network, propagate
from tests.golden_weights import filled, values

GOLDEN = Path(__file__).parents[1] / "golden"


def _filled(backbone: str, classes: int) -> CamNetwork:
    network = build_cam_network(backbone, classes).eval()
    network.load_state_dict(network.from_published(filled(network.to_published(network.state_dict()))))
    return network


@pytest.mark.parametrize(
    ("backbone", "classes", "name"),
    [("resnet38", 20, "resnet38"), ("resnet38", 80, "resnet38_coco"), ("vgg16", 20, "vgg16")],
)
def test_keys_and_shapes_are_the_published_ones(backbone: str, classes: int, name: str) -> None:
    with torch.device("meta"):
        network = build_cam_network(backbone, classes)
    published = json.loads((GOLDEN / f"state_dict_{name}.json").read_text())
    assert {k: list(v.shape) for k, v in network.to_published(network.state_dict()).items()} == published


def test_resnet38_scores_equal_published() -> None:
    golden = np.load(GOLDEN / "resnet38_forward.npz")
    network = _filled("resnet38", 20)
    with torch.no_grad():
        for case in ("a", "b"):
            score_map, logits = network(torch.from_numpy(golden[f"x_{case}"]))
            np.testing.assert_allclose(score_map, golden[f"featmap_{case}"], atol=2e-5)
            np.testing.assert_allclose(logits, golden[f"logits_{case}"], atol=2e-5)
        channels = torch.tensor([3, 14])
        part, _ = network(torch.from_numpy(golden["x_b"]), channels)
        np.testing.assert_allclose(part, golden["featmap_b"][:, [3, 14]], atol=2e-5)


@pytest.mark.parametrize(("backbone", "classes", "name"), [("resnet38", 80, "resnet38_coco"), ("vgg16", 20, "vgg16")])
def test_other_networks_equal_published(backbone: str, classes: int, name: str) -> None:
    golden = np.load(GOLDEN / f"{name}_forward.npz")
    with torch.no_grad():
        score_map, logits = _filled(backbone, classes)(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(score_map, golden["featmap"], atol=2e-5)
    np.testing.assert_allclose(logits, golden["logits"], atol=2e-5)


@pytest.mark.parametrize("block_elements", [64, 2**24])
def test_refinement_equals_published_in_any_blocks(block_elements: int) -> None:
    golden = np.load(GOLDEN / "pcm.npz")
    weight = torch.from_numpy(values("f9.weight", (192, 195, 1, 1)))
    features = F.conv2d(torch.from_numpy(golden["f"]), weight)
    for case in ("same", "resized"):
        source = F.interpolate(torch.from_numpy(golden[f"src_{case}"]), (5, 6), mode="bilinear", align_corners=True)
        refined = propagate(source, features, block_elements=block_elements)
        np.testing.assert_allclose(refined, golden[f"out_{case}"], rtol=1e-4, atol=1e-5)


def test_parameter_groups_are_the_published_ones() -> None:
    network = build_cam_network("resnet38", 20, width=0.0625)
    names = {id(p): next(iter(network.to_published({k: p}))) for k, p in network.named_parameters()}
    groups = network.parameter_groups()
    published = json.loads((GOLDEN / "param_groups_resnet38.json").read_text())["groups_as_used"]
    order = ("pretrained_weights", "pretrained_biases", "head_weights", "head_biases")
    assert [[names[id(p)] for p in groups[name]] for name in order] == published
    assert {k: len(v) for k, v in build_cam_network("vgg16", 20).parameter_groups().items()} == dict(
        zip(order, (13, 13, 7, 3), strict=True)
    )


def test_frozen_parts_stay_frozen_and_sides_stop_gradients() -> None:
    network = build_cam_network("resnet38", 3, width=0.0625).train()
    before = network.backbone.get_buffer("bn7.running_mean").clone()
    network(torch.rand(2, 3, 32, 32))[0].sum().backward()
    without = {k for k, p in network.to_published(dict(network.named_parameters())).items() if p.grad is None}
    assert "conv1a.weight" in without
    assert "b2_2.conv_branch2b1.weight" in without
    assert "b3.conv_branch2a.weight" not in without
    assert torch.equal(before, network.backbone.get_buffer("bn7.running_mean"))
    trainable = build_cam_network("resnet38", 3, width=0.0625, freeze_bn=False, freeze_stem=False).train()
    assert trainable.parameter_groups()["norm"]
    trainable(torch.rand(2, 3, 32, 32))[0].sum().backward()
    assert not torch.equal(before, trainable.backbone.get_buffer("bn7.running_mean"))


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [("resnet101", 8), ("timm:resnet18", 16), ("timm:tf_efficientnet_lite0", 16), ("timm:vit_tiny_patch16_224", 16)],
)
def test_every_trunk_gives_maps_of_its_stride(backbone: str, stride: int) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    network = build_cam_network(backbone, 3, output_stride=stride).eval()
    with torch.no_grad():
        score_map, logits = network(torch.rand(1, 3, 224, 224))
    assert score_map.shape == (1, 4, 224 // stride, 224 // stride)
    assert logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "message"), [("resnet39", "resnet38, resnet50, resnet101"), ("timm:no_such_net", "unknown to timm")]
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_cam_network(name, 3)


def test_a_resnet_with_checkpointed_activations_learns_the_same() -> None:
    torch.manual_seed(0)
    network = CamNetwork(ResNet((1, 2, 1, 1)), 3)
    images, gradients = torch.rand(2, 3, 65, 65), []
    for checkpointed in (False, True):
        cast(ResNet, network.backbone).checkpoint_activations = checkpointed
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network.train()(images)[1].square().sum()
        network.zero_grad()
        loss.backward()
        gradients.append((sum(kept), [p.grad for p in network.parameters() if p.grad is not None]))
    (whole, first), (less, second) = gradients
    assert less < whole / 2
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))

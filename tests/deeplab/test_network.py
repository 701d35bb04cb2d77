"""Segmentation networks against the published ones: names, shapes, numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from configs.deeplab_schema import DeepLabConfig
from deeplab.losses import multi_scale_loss
from deeplab.network import DeepLab, MultiScale, build_deeplab, segmentation_groups
from models.backbones.resnet import ResNet
from tests.golden_weights import filled
from utils.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"
SCALES = ("1x", "0.5x", "0.75x", "max")
VARIANTS = {
    "vgg16_v1": "DeepLabV1_VGG16_MSC",
    "vgg16_v2": "DeepLabV2_VGG16_MSC",
    "resnet101_v1": "DeepLabV1_ResNet101_MSC",
}


def build(name: str = "DeepLabV2_ResNet101_MSC") -> MultiScale:
    """Return a published network with the fixtures' weights, in evaluation mode."""
    cfg = DeepLabConfig()
    cfg.model.name = name
    network = build_deeplab(cfg).eval()
    network.load_state_dict(filled(network.state_dict()))
    return network


def published_parameters(network: MultiScale) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by their published names."""
    names = cast(DeepLab, network.base).published_names
    own = {key.removeprefix("base."): value for key, value in network.named_parameters()}
    return {f"base.{names.get(key, key)}": value for key, value in own.items()}


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("DeepLabV2_ResNet101_MSC", "deeplabv2_resnet101_msc"),
        ("DeepLabV1_ResNet101_MSC", "l2g_deeplab_resnet101_v1_msc"),
        ("DeepLabV1_VGG16_MSC", "l2g_deeplab_vgg16_v1_msc"),
        ("DeepLabV2_VGG16_MSC", "l2g_deeplab_vgg16_v2_msc"),
    ],
)
def test_names_and_shapes_are_published(name: str, listed: str) -> None:
    cfg = DeepLabConfig()
    cfg.model.name = name
    with torch.device("meta"):
        network = build_deeplab(cfg)
    published = json.loads((GOLDEN / f"state_dict_{listed}.json").read_text())
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == published


@pytest.mark.parametrize("suffix", ["", "_rect"])
def test_outputs_equal_published(suffix: str) -> None:
    golden = np.load(GOLDEN / "model_forward.npz")
    network = build()
    images = torch.from_numpy(golden[f"x{suffix}"])
    with torch.no_grad():
        np.testing.assert_allclose(network(images), golden[f"eval_out{suffix}"], atol=1e-3)
        for scale, logits in zip(SCALES, network.train()(images), strict=True):
            np.testing.assert_allclose(logits, golden[f"train_out{suffix}_{scale}"], atol=1e-3)


def test_layers_equal_published() -> None:
    golden = np.load(GOLDEN / "model_forward.npz")
    x = torch.from_numpy(golden["x"])
    with torch.no_grad():
        base = cast(DeepLab, build().base)
        trunk = cast(ResNet, base.backbone)
        trunk.layout = replace(trunk.layout, outputs=("maxpool", "layer1", "layer2", "layer3", "layer4"))
        maps = trunk(x)
        for name, x in zip(
            ("layer1", "layer2", "layer3", "layer4", "layer5", "aspp"), (*maps, base.head(maps[-1])), strict=True
        ):
            stats = [x.sum(), x.mean(), x.abs().mean(), x.abs().max(), x.std()]
            np.testing.assert_allclose([s.item() for s in stats], golden[f"stats_{name}"], rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(x[0, :8, ::3, ::3], golden[f"slice_{name}"], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_further_heads_equal_published(variant: str) -> None:
    golden = np.load(GOLDEN / "l2g_variants.npz")
    network = build(VARIANTS[variant])
    images, labels = torch.from_numpy(golden["x"]), torch.from_numpy(golden["labels"]).long()
    with torch.no_grad():
        np.testing.assert_allclose(network(images), golden[f"{variant}_eval_out"], atol=1e-3)
    network.training = True  # as the fixture: the wrapper trains, dropout does not
    outputs = network(images)
    losses = multi_scale_loss(outputs, labels)
    for scale, logits, loss in zip(SCALES, outputs, losses, strict=True):
        np.testing.assert_allclose(loss.detach(), golden[f"{variant}_loss_{scale}"], rtol=1e-4)
        if f"{variant}_out_{scale}" in golden:
            np.testing.assert_allclose(logits.detach(), golden[f"{variant}_out_{scale}"], atol=1e-3)
    np.testing.assert_allclose(losses.sum().detach(), golden[f"{variant}_loss_total"], rtol=1e-4)
    losses.sum().backward()
    parameters = published_parameters(network)
    norms = [key for key in golden.files if key.startswith(f"{variant}_gradnorm/") and ".bn." not in key]
    assert len(norms) >= 4
    for key in norms:
        gradient = parameters[key.partition("/")[2]].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.norm(), golden[key], rtol=1e-3)


def test_frozen_normalisation_stays_frozen() -> None:
    network = build().train()
    before = network.base.get_submodule("backbone.bn1")
    mean = before.running_mean.clone()  # type: ignore[operator]
    network(torch.randn(2, 3, 33, 33))
    network.train(False)
    network.train(True)
    assert not before.training
    assert torch.equal(before.running_mean, mean)  # type: ignore[arg-type]
    assert not any(p.requires_grad for p in before.parameters())


def test_an_unknown_model_is_refused() -> None:
    cfg = DeepLabConfig()
    cfg.model.name = "DeepLabV3"
    with pytest.raises(UserError, match="DeepLabV2_ResNet101_MSC"):
        build_deeplab(cfg)


def test_a_first_stage_trunk_gives_logits_of_its_stride() -> None:
    cfg = DeepLabConfig()
    cfg.model.name, cfg.model.backbone, cfg.model.width = "DeepLabV2_Backbone_MSC", "resnet38", 0.0625
    network = build_deeplab(cfg).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 48)).shape == (1, 21, 8, 6)
        assert network(torch.randn(1, 3, 1, 1)).shape == (1, 21, 1, 1)  # of which half a pixel cannot be made


@pytest.mark.parametrize(("backbone", "stride"), [("resnet38", 8), ("timm:resnet10t", 16), ("timm:vit_tiny_patch16_224", 16)])
def test_the_decoder_of_deeplab_v3_plus_sees_shallow_features(backbone: str, stride: int) -> None:
    """Any trunk, any picture: those of transformers are brought to whole patches."""
    pytest.importorskip("timm")
    cfg = DeepLabConfig()
    cfg.model.name, cfg.model.backbone, cfg.model.head, cfg.model.msc_scales = "DeepLabV2_Backbone_MSC", backbone, "v3plus", []
    cfg.model.width, cfg.model.output_stride, cfg.model.atrous_rates, cfg.dataset.n_classes = 0.0625, stride, [1, 2], 4
    network = build_deeplab(cfg)
    (logits,) = network.train()(torch.randn(2, 3, 70, 90))
    assert logits.shape[:2] == (2, 4)
    finest = 16 if "vit" in backbone else 4
    assert logits.shape[2:] == (-(-70 // finest), -(-90 // finest))
    logits.square().mean().backward()
    groups = segmentation_groups(network, 1e-4)
    assert [group["lr_scale"] for group in groups][:3] == [1.0, 10.0, 20.0]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    assert trained == {*grouped} and len(grouped) == len(trained)
    assert all(p.grad is not None for p in cast(DeepLab, network.base).head.parameters())
    # A step changes what the network says of a picture: shallow and deep features both count.
    decoder = cast(Any, network.base).head
    with torch.no_grad():
        levels = cast(Any, network.base).backbone(torch.randn(1, 3, 70, 90))
        plain = decoder.eval()(levels)
        assert not torch.equal(decoder((levels[0] + 1, *levels[1:])), plain)
        assert not torch.equal(decoder((*levels[:-1], levels[-1] * 2 + torch.randn_like(levels[-1]))), plain)


def test_the_decoder_is_for_plain_training() -> None:
    cfg = DeepLabConfig()
    cfg.model.name, cfg.model.backbone, cfg.model.head, cfg.method = "DeepLabV2_Backbone_MSC", "resnet38", "v3plus", "cdl_b"
    cfg.model.width = 0.0625
    with pytest.raises(UserError, match="model.head=v3plus is for method=plain, but method is cdl_b"):
        build_deeplab(cfg)

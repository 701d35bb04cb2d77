"""Loading weights: published names with or without prefixes, initial weights, torchvision's; nothing silently."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
import torchvision
from torch import nn

from configs.deeplab_schema import DeepLabConfig
from deeplab.network import MultiScale, build_deeplab
from deeplab.weights import from_torchvision, load_checkpoint, load_initial, trained_for
from models.backbones.resnet import ResNet
from models.cam_net import build_cam_network
from tests.deeplab.test_network import GOLDEN
from tests.deeplab.tiny_deeplab import tiny_deeplab
from tests.golden_weights import filled
from tests.scripts.test_build import SOURCES, library_file
from utils.errors import UserError
from utils.training.weights import published_state, save_weights


def _network(tmp_path: Path, *overrides: str) -> MultiScale:
    return build_deeplab(tiny_deeplab(tmp_path, *overrides))


@pytest.mark.parametrize("prefix", ["", "base.", "module.base.", "module."])
def test_checkpoints_load_with_any_prefix(tmp_path: Path, prefix: str) -> None:
    state = filled(_network(tmp_path).state_dict())
    path = tmp_path / "w.pth"
    torch.save({prefix + key.removeprefix("base."): value for key, value in state.items()}, path)
    network = _network(tmp_path)
    load_checkpoint(network, path)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = _network(tmp_path).state_dict()
    path = tmp_path / "w.pth"
    torch.save({key: value for key, value in state.items() if "aspp.c0" not in key}, path)
    with pytest.raises(UserError, match=r"2 missing keys \(aspp\.c0"):
        load_checkpoint(_network(tmp_path), path)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"with dataset\.n_classes=4, this network has 6; set dataset\.n_classes=4"):
        load_checkpoint(_network(tmp_path, "dataset.n_classes=6"), path)
    with pytest.raises(
        UserError, match=r"differ in shape, e\.g\. backbone.*check model\.name, model\.backbone and model\.width"
    ):
        load_checkpoint(_network(tmp_path, "model.width=0.125"), path)
    state["base.aspp.c0.weight"].fill_(float("inf"))
    torch.save(state, path)
    for load in (load_checkpoint, lambda network, path: load_initial(network, path, [])):
        with pytest.raises(UserError, match=r"NaN or infinite values in 1 of .*aspp\.c0\.weight"):
            load(_network(tmp_path), path)


def test_an_init_file_that_misses_trunk_keys_is_refused(tmp_path: Path) -> None:
    cfg = DeepLabConfig()
    cfg.model.n_blocks = [1, 1, 1, 1]
    network = build_deeplab(cfg)
    path = tmp_path / "init.pth"
    torch.save({f"encoder.{key}": value for key, value in network.base.state_dict().items()}, path)
    with pytest.raises(UserError, match="lacks .* trunk entries"):
        load_initial(network, path, [])
    torch.save({f"base.{key}": value for key, value in network.base.state_dict().items()}, path)
    assert "head starts from it as well" in load_initial(network, path, []).told


def test_the_published_coco_init_fills_the_trunk_and_not_the_head(tmp_path: Path) -> None:
    listed = json.loads((GOLDEN / "state_dict_deeplabv1_resnet101_coco_init.json").read_text())
    state = {key: torch.zeros(shape) for key, shape in listed.items()}
    path = tmp_path / "coco.pth"
    torch.save(state, path)
    network = build_deeplab(DeepLabConfig())
    message = load_initial(network, path, []).told
    assert "head starts at random" in message
    assert "fc.weight" in message
    own = network.base.state_dict()
    assert own["layer5.block3.increase.conv.weight"].abs().sum() == 0
    assert own["aspp.c0.weight"].std().item() == pytest.approx(0.01, rel=0.05)


class _BgrGrey(nn.Module):
    """A torchvision network fed with BGR grey levels minus the mean, by way of its own normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        out: torch.Tensor = self.network(x.flip(1) / (255 * std))
        return out


def test_torchvision_stems_see_the_same_picture(tmp_path: Path) -> None:
    source = torchvision.models.resnet101(weights=None).eval()
    source.load_state_dict(filled(source.state_dict()))
    path = tmp_path / "resnet101.pth"
    torch.save(source.state_dict(), path)
    cfg = DeepLabConfig()
    network = build_deeplab(cfg).eval()
    message = load_initial(network, path, []).told
    assert "fc.weight" not in message or "not used" in message
    x = 50 * torch.randn(1, 3, 33, 33)
    stem = _BgrGrey(nn.Sequential(source.conv1, source.bn1, source.relu))
    with torch.no_grad():
        trunk = cast(ResNet, network.base.get_submodule("backbone"))
        ours = trunk.relu(trunk.bn1(trunk.conv1(x)))
        torch.testing.assert_close(ours, stem(x), rtol=1e-4, atol=1e-4)
        # The first stage of blocks has no stride: the same function. Pooling differs only by its border rule.
        features = torch.randn(1, 64, 17, 17)
        torch.testing.assert_close(trunk.get_submodule("layer1")(features), source.layer1(features))


def test_torchvision_vgg_is_renamed(tmp_path: Path) -> None:
    source = torchvision.models.vgg16(weights=None).eval()
    state = from_torchvision(source.state_dict())
    with torch.device("meta"):
        cfg = DeepLabConfig()
        cfg.model.name = "DeepLabV1_VGG16_MSC"
        own = build_deeplab(cfg).base.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in own.items() if not k.startswith("aspp")}
    assert torch.equal(state["layer2.2.0.weight"], source.state_dict()["features.28.weight"])


@pytest.mark.parametrize("backbone", SOURCES)
def test_any_trunk_takes_its_own_files_and_trains(tmp_path: Path, backbone: str) -> None:
    torch.manual_seed(0)
    cfg = DeepLabConfig()
    cfg.model.name, cfg.model.backbone, cfg.model.msc_scales = "DeepLabV2_Backbone_MSC", backbone, []
    cfg.model.output_stride, cfg.model.width = 16, 0.0625
    first_stage = build_cam_network(backbone, 3, width=0.0625, output_stride=16)
    path = tmp_path / "final.pth"
    save_weights(published_state(first_stage), path)
    network = build_deeplab(cfg)
    assert "head starts at random" in load_initial(network, path, []).told
    own = {key: value for key, value in network.base.state_dict().items() if key.startswith("backbone.")}
    assert all(torch.equal(value, first_stage.state_dict()[key]) for key, value in own.items())
    if SOURCES[backbone]:
        path = library_file(backbone, tmp_path / "library.pth")
        assert "head starts at random" in load_initial(network, path, []).told
        published = torch.load(path, weights_only=True)
        # As they are: such a network takes normalised RGB, as those of the libraries do.
        first = next(value for value in published.values() if value.dim() == 4)
        assert next(v for k, v in network.base.state_dict().items() if v.shape == first.shape).equal(first)
    before = {key: value.clone() for key, value in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network.train()(torch.rand(2, 3, 65, 65))[0].square().mean().backward()
        optimizer.step()
    changed = {key.split(".")[1] for key, value in network.named_parameters() if not value.equal(before[key])}
    assert changed == {"backbone", "aspp"}


@pytest.mark.parametrize("name", ["DeepLabV2_Backbone_MSC", "DeepLabV2_ResNet101_MSC"])
def test_blocks_the_trunk_does_not_have_are_another_trunks(tmp_path: Path, name: str) -> None:
    """They were left out, and training began with a trunk cut short."""
    path = library_file("resnet101", tmp_path / "resnet101.pth")
    cfg = DeepLabConfig()
    cfg.model.name, cfg.model.backbone, cfg.model.n_blocks = name, "resnet50", [3, 4, 6, 3]
    with pytest.raises(
        UserError, match=r"is of another trunk: it has 306 entries more \(.*check model\.name and model\.backbone"
    ):
        load_initial(build_deeplab(cfg), path, [])


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"fc.weight": (91, 2048, 1, 1), "fc.bias": (91,)}, "segmentation weights"),  # published: ...-coco.pth
        ({"aspp.c0.weight": (21, 2048, 3, 3)}, "segmentation weights"),
        ({"fov.conv6.weight": (1024, 2048, 3, 3)}, "segmentation weights"),
        ({"aspp.conv8.weight": (21, 1024, 1, 1)}, "segmentation weights"),
        ({"fc.weight": (1000, 2048)}, "classification weights"),
        ({"classifier.6.weight": (1000, 4096)}, "classification weights"),
        ({"fc8.weight": (21, 4096, 1, 1), "f9.weight": (192, 195, 1, 1)}, "classification weights"),  # image labels alone
        ({}, "a trunk alone, which does not say what it was trained for"),
    ],
)
def test_a_head_says_whether_weights_have_seen_masks(shapes: dict[str, tuple[int, ...]], expected: str) -> None:
    trunk = {"layer1.conv1.conv.weight": torch.zeros(64, 3, 7, 7)}
    assert trained_for({**trunk, **{key: torch.zeros(shape) for key, shape in shapes.items()}}) == expected

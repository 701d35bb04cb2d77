"""Weight files of every kind in networks on every kind of trunk: they load as they are, and the network learns."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from configs.schema import Config
from models.backbones.timm import TimmBackbone
from models.cam_net import CamNetwork, build_cam_network, cam_network
from scripts.build import load_initial_weights
from tests.tiny_data import tiny_config
from utils.errors import UserError
from utils.training.weights import published_state, save_weights

# Trunk -> the library its weight files come from.
SOURCES = {
    "resnet38": "",
    "resnet101": "torchvision",
    "vgg16": "torchvision",
    "timm:resnet18": "timm",
    "timm:tf_efficientnet_lite0": "timm",
    "timm:convnext_atto": "timm",
}


def library_file(trunk: str, path: Path) -> Path:
    """Write a file as its library publishes it, its classifier over 1000 classes included (which takes no room here)."""
    name = trunk.removeprefix("timm:")
    with torch.device("meta"):
        source: nn.Module = timm.create_model(name) if trunk != name else getattr(torchvision.models, name)(weights=None)
    state = {key: torch.ones(()).expand(value.shape) for key, value in source.state_dict().items()}
    for key, value in state.items():
        if value.dim() == 4:
            state[key] = nn.init.kaiming_normal_(torch.empty(value.shape))
    torch.save(state, path)
    return path


def _config(tmp_path: Path, trunk: str, weights: Path, *overrides: str) -> Config:
    return tiny_config(tmp_path, f"model.backbone={trunk}", f"model.pretrained={weights}", "model.allow_missing=[]", *overrides)


def _trunk_state(network: CamNetwork) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.state_dict().items() if key.startswith("backbone.")}


@pytest.mark.parametrize("trunk", SOURCES)
def test_every_trunk_takes_its_own_files_and_learns(tmp_path: Path, trunk: str) -> None:
    torch.manual_seed(0)
    stages = _config(tmp_path, trunk, Path(), "model.freeze_stem=false")
    first = cam_network(stages.model, 3)
    own = tmp_path / "final.pth"
    save_weights(published_state(first), own)
    stages.model.pretrained = str(own)
    network = cam_network(stages.model, 3)
    load_initial_weights(network, stages)
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in network.state_dict().items())
    if SOURCES[trunk]:
        published = torch.load(library_file(trunk, tmp_path / "library.pth"), weights_only=True)
        stages.model.pretrained = str(tmp_path / "library.pth")
        load_initial_weights(network, stages)
        last = [key for key in published if published[key].dim() == 4][-1]
        assert any(
            value.shape == published[last].shape and value.equal(published[last]) for value in _trunk_state(network).values()
        )
    before = {key: value.clone() for key, value in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network.train()(torch.rand(2, 3, 65, 65))[1].square().sum().backward()
        optimizer.step()
    changed = [key for key, value in network.named_parameters() if not value.equal(before[key])]
    assert {key.partition(".")[0] for key in changed} == {"backbone", "head"}


def test_what_is_not_the_trunks_is_still_refused(tmp_path: Path) -> None:
    path = library_file("resnet50", tmp_path / "resnet50.pth")
    network = build_cam_network("resnet50", 3)
    state = torch.load(path, weights_only=True)
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 unexpected keys \(extra\.weight\)"):
        load_initial_weights(network, _config(tmp_path, "resnet50", path))
    del state["layer4.2.conv3.weight"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"1 missing keys \(backbone\.layer4\.2\.conv3\.weight\)"):
        load_initial_weights(network, _config(tmp_path, "resnet50", path))


def test_trunks_of_timm_with_one_output_stride_are_there_without_their_classifier() -> None:
    with torch.device("meta"):
        trunk = TimmBackbone("vgg11", 8)
    assert (trunk.stride, trunk.out_channels) == (32, 512)
    assert {key.split(".")[1] for key in trunk.state_dict()} == {"features"}
    assert set(trunk.classifier_keys) == {"head.fc.*", "pre_logits.*"}


@pytest.mark.parametrize("overrides", [("method=l2g",), ("method=bsl",), ("method=onestage", "model.backbone=vgg16")])
def test_another_number_of_classes_is_told_as_that(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Also where the classifier is not called head."""
    from models.method import find_method

    cfg = tiny_config(tmp_path, *overrides)
    build = find_method(cfg.method).inference_network
    save_weights(published_state(build(cfg)), tmp_path / "three.pth")
    five = tiny_config(
        tmp_path, *overrides, f"train.init_from={tmp_path / 'three.pth'}", "data.num_classes=5", "data.class_names=voc12"
    )
    with pytest.raises(UserError, match=r"trained with data\.num_classes=3, this network has 5; set data\.num_classes=3"):
        load_initial_weights(build(five), five)


@pytest.mark.parametrize(
    ("held", "network"), [("resnet101", "resnet50"), ("resnet50", "resnet101"), ("timm:resnet18", "timm:resnet34")]
)
def test_weights_of_another_trunk_are_told_as_that(tmp_path: Path, held: str, network: str) -> None:
    path = tmp_path / "final.pth"
    save_weights(published_state(build_cam_network(held, 6)), path)
    with pytest.raises(UserError, match=r"final\.pth does not fit.*check model\.backbone") as caught:
        load_initial_weights(build_cam_network(network, 6), _config(tmp_path, network, path))
    assert "num_classes" not in str(caught.value)

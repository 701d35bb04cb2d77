"""Weights by name, without a network: from the libraries' caches, or one sentence that says what to put where."""

from pathlib import Path
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from configs.deeplab_schema import DeepLabConfig
from deeplab.network import build_deeplab, trunk_name
from deeplab.weights import load_initial
from models.cam_net import cam_network
from scripts.build import load_config, load_initial_weights
from tests.tiny_data import tiny_config
from utils.errors import UserError
from utils.training.hub import TORCHVISION, hub_weights

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of caches, with no network behind it."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    return tmp_path


def _cache_torchvision(cache: Path, name: str) -> dict[str, torch.Tensor]:
    """Put random weights where torchvision keeps those it has fetched."""
    state = getattr(torchvision.models, name)(weights=None).state_dict()
    path = cache / "checkpoints" / torchvision.models.get_weight(TORCHVISION[name]).url.rpartition("/")[2]
    path.parent.mkdir()
    torch.save(state, path)
    return dict(state)


def _cache_timm(cache: Path, model: str, name: str) -> dict[str, torch.Tensor]:
    """Put random weights where Hugging Face's library keeps those it has fetched for timm."""
    state = timm.create_model(model).state_dict()
    folder = cache / "hf" / f"models--timm--{name}"
    (folder / "snapshots" / "0a").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0a")
    save_file(state, folder / "snapshots" / "0a" / "model.safetensors")
    return dict(state)


def test_torchvisions_come_from_its_cache_and_fit_both_stages(cache: Path, tmp_path: Path) -> None:
    theirs = _cache_torchvision(cache, "resnet50")
    cfg = tiny_config(tmp_path, "model.backbone=resnet50", "model.pretrained=hub")
    network = cam_network(cfg.model, 3)
    load_initial_weights(network, cfg)
    assert network.backbone.get_parameter("layer4.2.conv3.weight").equal(theirs["layer4.2.conv3.weight"])
    stage = DeepLabConfig()
    stage.model.n_blocks, stage.model.init_model = [3, 4, 6, 3], "hub"
    deeplab = build_deeplab(stage)
    message = load_initial(deeplab, "hub", [], hub_weights(trunk_name(stage.model))).told
    assert "ResNet50_Weights.IMAGENET1K_V2 of torchvision (BSD-3-Clause) (classification weights)" in message
    assert deeplab.base.state_dict()["layer5.block3.increase.conv.weight"].equal(theirs["layer4.2.conv3.weight"])


def test_timms_come_from_its_cache_with_their_normalisation(cache: Path, tmp_path: Path) -> None:
    theirs = _cache_timm(cache, "tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k")
    cfg = tiny_config(tmp_path, "model.backbone=timm:tf_efficientnet_lite0", "model.pretrained=hub")
    network = cam_network(cfg.model, 3)
    load_initial_weights(network, cfg)
    assert network.state_dict()["backbone.network.conv_stem.weight"].equal(theirs["conv_stem.weight"])
    found = hub_weights("timm:tf_efficientnet_lite0")
    assert found.source == "timm/tf_efficientnet_lite0.in1k of timm (apache-2.0)"
    assert found.advice([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]) == ""
    assert "mean [0.5, 0.5, 0.5]" in found.advice(cfg.data.mean, cfg.data.std)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet101", r"ResNet101_Weights\.IMAGENET1K_V2 cannot be fetched \(URLError.*get https://download\.pytorch\.org/models/"
                      r"resnet101-cd907fc2\.pth, and put it into \S*checkpoints$"),
        ("timm:resnet18", r"timm/resnet18\.a1_in1k cannot be fetched .*get https://huggingface\.co/timm/resnet18\.a1_in1k/resolve/main/"
                          r"model\.safetensors, and set model\.pretrained to it$"),
        ("resnet38", r"no library publishes weights for resnet38; give a file, or take one of resnet50, resnet101"),
        ("timm:test_efficientnet_x", r"has no weights for test_efficientnet_x; give a file"),
        ("timm:samvit_base_patch16", r"learnt from masks \(sa1b\).*model\.backbone=timm:samvit_base_patch16\.sa1b"),
    ],
)  # fmt: skip
def test_without_a_network_it_says_which_file_to_put_where(backbone: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        hub_weights(backbone)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["voc", "coco"])
def test_the_presets_with_resnet101_name_weights_that_exist(which: str) -> None:
    cfg = load_config(CONFIGS / f"l2g_{which}_resnet101.yaml")
    assert (cfg.model.backbone, cfg.model.pretrained, cfg.model.freeze_bn) == ("resnet101", "hub", True)
    assert cfg.model.backbone in TORCHVISION

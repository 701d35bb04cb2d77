"""Suppression and attention against the published modules and the published network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.backbones.resnet38 import BottleneckBlock
from models.cam_net import CamNetwork, build_cam_network
from models.layers.attention import ATTENTIONS, SqueezeExcitation, build_attention
from models.layers.gates import FixedSuppression, GateOptions, LearnableSuppression
from tests.golden_weights import filled

GOLDEN = Path(__file__).parents[2] / "golden" / "sa_cda"
PUBLISHED = GateOptions(suppression="learnable", attention="se")
FIXTURE_NAMES = {"spatial": "sa", "polarized_channel": "psa_ch", "polarized_spatial": "psa_sp"}


def fill(module: nn.Module) -> nn.Module:
    module.load_state_dict(filled(module.state_dict()))
    return module.eval()


def _check_gradients(module: nn.Module, prefix: str, x: str, weights: dict[str, str]) -> None:
    golden = np.load(GOLDEN / "suppression_se_modules.npz")
    images = torch.from_numpy(golden[x]).requires_grad_()
    output = module(images)
    np.testing.assert_allclose(output.detach(), golden[f"{prefix}_y"], rtol=1e-5, atol=1e-6)
    output.backward(torch.from_numpy(golden["se_g" if x == "se_x" else "sl_g"]))
    assert images.grad is not None
    np.testing.assert_allclose(images.grad, golden[f"{prefix}_gx"], rtol=1e-5, atol=1e-6)
    for name, found in weights.items():
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        np.testing.assert_allclose(gradient, golden[f"{prefix}_{found}"], rtol=1e-5, atol=1e-6)


def test_suppression_and_se_equal_published_with_gradients() -> None:
    _check_gradients(fill(LearnableSuppression(16)), "sl", "sl_x", {"fc.0.weight": "gw"})
    _check_gradients(FixedSuppression(0.55), "sf", "sl_x", {})
    _check_gradients(fill(SqueezeExcitation(32)), "se", "se_x", {"fc.0.weight": "gw0", "fc.2.weight": "gw2"})


def test_block_with_se_equals_published() -> None:
    golden = np.load(GOLDEN / "bottleneck_se_block.npz")
    block = fill(BottleneckBlock(32, 16, 32, 64, dilation=4, dropout=0.0, attention=SqueezeExcitation(64)))
    with torch.no_grad():
        output, activated = block(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(output, golden["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(activated, golden["bn_relu"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in ATTENTIONS if kind != "se"])
def test_other_attentions_equal_published(kind: str) -> None:
    golden = np.load(GOLDEN / "alternative_attention.npz")
    with torch.no_grad():
        output = fill(build_attention(kind, 32, 16))(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(output, golden[f"y_{FIXTURE_NAMES.get(kind, kind)}"], rtol=1e-5, atol=2e-6)


def test_sums_add_what_their_parts_return() -> None:
    x = torch.rand(2, 32, 4, 5)
    both = build_attention("cam+pam", 32, 16)
    torch.testing.assert_close(both(x), 2 * x)  # both start as the identity


def test_keys_and_shapes_are_the_published_ones_in_order() -> None:
    with torch.device("meta"):
        network = build_cam_network("resnet38", 20, gates=PUBLISHED)
    published = json.loads((GOLDEN / "state_dict_resnet38_se_drs.json").read_text())
    own = {k: list(v.shape) for k, v in network.to_published(network.state_dict()).items()}
    assert own == published
    assert next(iter(own)) == next(iter(published)) == "DRS_learnable_layer6.fc.0.weight"


def _statistics(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.numpy().astype(np.float64)
    return np.array([array.sum(), array.mean(), np.abs(array).mean(), array.max()])


def test_network_with_loaded_weights_equals_published() -> None:
    golden = np.load(GOLDEN / "model_forward.npz")
    network = build_cam_network("resnet38", 20, gates=PUBLISHED).eval()
    network.load_state_dict(network.from_published(filled(network.to_published(network.state_dict()))))
    seen: dict[str, torch.Tensor] = {}
    places = {"se6": "b6.se_layer", "se7": "b7.se_layer", "drs6": "DRS_learnable_layer6", "drs7": "DRS_learnable_layer7"}

    def keep(name: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        seen[f"{name}_in"], seen[name] = inputs, output

    for name, path in places.items():
        module = network.backbone.get_submodule(path)
        module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, inputs[0], output))
    x = torch.from_numpy(golden["x"])
    with torch.no_grad():
        score_map, logits = network(x)
        seen["conv4"], seen["conv5"], seen["conv6"] = network.backbone(x)
        np.testing.assert_allclose(network.head.classifier(seen["conv6"]), golden["forward_cam"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score_map, golden["featmap"], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(logits, golden["pred"], rtol=1e-4, atol=2e-5)
    for name, value in seen.items():
        np.testing.assert_allclose(value[:, ::64, ::2, ::2], golden[f"{name}_sub"], rtol=1e-4, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(_statistics(value)[1:], golden[f"{name}_stats"][1:], rtol=1e-4, atol=1e-5, err_msg=name)


def _group_names(network: CamNetwork, trained: bool = True) -> dict[str, list[str]]:
    names = {id(p): next(iter(network.to_published({k: p}))) for k, p in network.named_parameters()}
    return {k: [names[id(p)] for p in v if p.requires_grad or not trained] for k, v in network.parameter_groups().items()}


def test_published_parameter_groups_leave_the_gates_out() -> None:
    network = build_cam_network("resnet38", 20, width=0.0625, gates=PUBLISHED)
    published = json.loads((GOLDEN / "param_groups_resnet38_se_drs.json").read_text())
    groups = _group_names(network)
    order = ("pretrained_weights", "pretrained_biases", "head_weights", "head_biases")
    assert [groups[name] for name in order] == [published[str(i)] for i in range(4)]
    gates = {name for name in published["not_in_any_group"] if "se_layer" in name or "DRS" in name}
    assert gates == {next(iter(network.to_published({k: torch.empty(0)}))) for k in network.gate_keys()}


def test_trained_gates_learn_at_the_heads_rate() -> None:
    options = GateOptions(suppression="learnable", attention="se+spatial", train_gates=True)
    network = build_cam_network("resnet38", 3, width=0.0625, gates=options).train()
    groups = _group_names(network, trained=False)
    assert "DRS_learnable_layer6.fc.0.weight" in groups["head_weights"]
    assert "b7.se_layer.parts.se.fc.2.weight" in groups["head_weights"]
    assert "b7.se_layer.parts.spatial.conv.bias" in groups["head_biases"]
    network(torch.rand(1, 3, 32, 32))[0].sum().backward()
    assert network.backbone.get_parameter("DRS_learnable_layer6.fc.0.weight").grad is not None
    frozen = build_cam_network("resnet38", 3, width=0.0625, gates=GateOptions(attention="se+spatial"))
    assert not frozen.backbone.get_parameter("b6.se_layer.parts.se.fc.0.weight").requires_grad
    assert "b6.se_layer.parts.spatial.conv.weight" in _group_names(frozen)["pretrained_weights"]


def test_every_stage_can_be_suppressed() -> None:
    torch.manual_seed(0)
    places = ("b2", "b3", "b4", "b5", "b6", "b7", "features")
    x = torch.rand(1, 3, 48, 48)
    outputs = []
    for place in (None, *places):
        gates = GateOptions("fixed", [place], 0.1) if place else GateOptions()
        network = build_cam_network("resnet38", 3, width=0.125, gates=gates).eval()
        network.load_state_dict(network.from_published(filled(network.to_published(network.state_dict()))))
        with torch.no_grad():
            outputs.append(network(x)[0])
    for i, one in enumerate(outputs):
        assert all(not torch.equal(one, other) for other in outputs[:i])


@pytest.mark.parametrize("backbone", ["resnet101", "timm:tf_efficientnet_lite0"])
def test_any_trunk_can_have_gates_on_its_features(backbone: str) -> None:
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    gates = GateOptions("learnable", ["features"], 0.5, "se", ["features"])
    network = build_cam_network(backbone, 2, output_stride=16, gates=gates).eval()
    plain = build_cam_network(backbone, 2, output_stride=16).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("gates.")})
    assert set(network.state_dict()) - set(plain.state_dict()) == set(network.gate_keys())
    assert set(network.to_published(network.state_dict())) >= {"gates.0.fc.0.weight", "gates.1.fc.0.weight"}
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network(x)[0], plain(x)[0])


@pytest.mark.parametrize(
    ("backbone", "gates", "message"),
    [
        ("resnet38", GateOptions(attention="sse"), r"model.attention is 'sse', expected one of none, se, spatial"),
        (
            "resnet38",
            GateOptions(attention="se", attention_places=["b5"]),
            r"model.attention_places names 'b5'.* b6, b7, feat",
        ),
        ("vgg16", GateOptions(suppression="fixed"), r"model.suppression_places names 'b6'; with vgg16 use .* features"),
        ("resnet38", GateOptions(suppression="fixed", suppression_places=[]), r"model.suppression_places names 'nothing'"),
        ("resnet38", GateOptions(suppression_ratio=0.0), r"model.suppression_ratio is 0.0, expected in \(0, 1\]"),
        ("resnet38", GateOptions(attention_reduction=0), r"model.attention_reduction is 0"),
    ],
)
def test_wrong_gates_are_told(backbone: str, gates: GateOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_cam_network(backbone, 2, width=0.0625, gates=gates)

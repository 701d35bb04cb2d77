"""Weight files: every format, every way to be wrong."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models.cam_net import build_cam_network
from scripts import convert_weights
from utils.errors import UserError
from utils.training.weights import load_weights, mxnet_key, read_weights, save_weights

GOLDEN = Path(__file__).parents[2] / "golden"


def _params(arrays: dict[str, np.ndarray], version: int = 2) -> bytes:
    """Return an MXNet NDArray-list file."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        shape = array.shape
        if version == 2:
            out += struct.pack("<Iii", 0xF993FAC9, 0, len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
        elif version == 1:
            out += struct.pack("<II", 0xF993FAC8, len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
        else:
            out += struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}I", *shape)
        out += struct.pack("<iii", 1, 0, 0) + array.astype(np.float32).tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    return out


def test_mxnet_names_follow_the_published_table() -> None:
    table = json.loads((GOLDEN / "mxnet_key_map.json").read_text())
    assert {name: mxnet_key(name) for name in table} == table
    assert mxnet_key("arg:linear1000_weight") is None


@pytest.mark.parametrize("version", [0, 1, 2])
def test_params_files_are_read_without_mxnet(tmp_path: Path, version: int) -> None:
    arrays = {
        "arg:conv1a_weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
        "aux:bn7_moving_mean": np.arange(5, dtype=np.float32),
        "arg:linear1000_weight": np.zeros((2, 2), np.float32),
    }
    path = tmp_path / "net.params"
    path.write_bytes(_params(arrays, version))
    state = read_weights(path)
    assert set(state) == {"conv1a.weight", "bn7.running_mean"}
    np.testing.assert_array_equal(state["conv1a.weight"], arrays["arg:conv1a_weight"])
    path.write_bytes(_params(arrays, version)[:-30])
    with pytest.raises(UserError, match="ends too early"):
        read_weights(path)
    path.write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match="no MXNet"):
        read_weights(path)


def test_checkpoints_with_and_without_module_prefix_load_strictly(tmp_path: Path) -> None:
    network = build_cam_network("resnet38", 3, width=0.0625)
    published = network.to_published(network.state_dict())
    for prefix in ("", "module."):
        state = {prefix + k: v for k, v in published.items()}
        torch.save({"state_dict": state, "local_dict": {k: v + 1 for k, v in state.items()}, "epoch": 9}, tmp_path / "c.pth")
        other = build_cam_network("resnet38", 3, width=0.0625)
        load_weights(other, read_weights(tmp_path / "c.pth"), source="c.pth")
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in network.state_dict().items())
        local = read_weights(tmp_path / "c.pth", "local")
        assert torch.equal(local["fc8.weight"], published["fc8.weight"] + 1)


def test_wrong_keys_are_listed_unless_allowed() -> None:
    network = build_cam_network("resnet38", 3, width=0.0625)
    whole = network.to_published(network.state_dict())
    state = {key: value for key, value in whole.items() if key != "f9.weight"}
    state["fc.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"1 missing keys \(head.affinity.weight\) and 1 unexpected keys \(fc.weight\)"):
        load_weights(network, state, source="w.pth")
    load_weights(network, state, source="w.pth", allow_missing=["head.*"], allow_unexpected=["fc.*"])
    with pytest.raises(UserError, match="nothing this network"):
        load_weights(network, {"x": torch.zeros(1)}, source="w.pth", allow_missing=["*"], allow_unexpected=["*"])
    with pytest.raises(UserError, match=r"num_classes=3, this network has 5"):
        load_weights(build_cam_network("resnet38", 5, width=0.0625), whole, source="w.pth")


def test_another_width_or_trunk_is_not_told_as_another_number_of_classes() -> None:
    wide, narrow = build_cam_network("resnet38", 3, width=0.125), build_cam_network("resnet38", 3, width=0.0625)
    with pytest.raises(UserError, match=r"e.g. backbone.b2.* check model.backbone and model.width") as caught:
        load_weights(narrow, wide.state_dict(), source="w.pth")
    assert "num_classes" not in str(caught.value)
    with pytest.raises(UserError, match=r"missing keys .* check model.backbone") as caught:
        load_weights(build_cam_network("vgg16", 3), {**wide.state_dict()}, source="w.pth")
    assert "num_classes" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, name: str, value: float) -> None:
    broken = torch.ones(3)
    broken[1] = value
    save_weights({"a.weight": torch.ones(2), "b.weight": broken, "n": torch.tensor(7)}, tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} holds NaN or infinite values in 1 of 3 entries \(b.weight\)"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(UserError, match=name):
        read_weights(tmp_path / name)


def test_conversion_keeps_every_entry(tmp_path: Path) -> None:
    state = {"module.a.weight": torch.rand(2, 3), "module.b": torch.arange(3)}
    torch.save(state, tmp_path / "in.pth")
    assert convert_weights.run(tmp_path / "in.pth", tmp_path / "out.safetensors") == 2
    assert convert_weights.run(tmp_path / "out.safetensors", tmp_path / "back.pth") == 2
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert torch.equal(back["a.weight"], state["module.a.weight"])
    assert torch.equal(back["b"], state["module.b"])
    with pytest.raises(UserError, match="expected one of .pth"):
        convert_weights.run(tmp_path / "in.pth", tmp_path / "out.bin")

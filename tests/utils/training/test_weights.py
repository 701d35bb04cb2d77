"""Weight files: every format, every way to be wrong."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models.cam_net import build_cam_network
from scripts import convert_weights
from utils.errors import UserError
from utils.training.weights import load_weights, mxnet_key, read_weights, save_content, save_weights

GOLDEN = Path(__file__).parents[2] / "golden"


def params_bytes(arrays: dict[str, np.ndarray], version: int = 2) -> bytes:
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
    path.write_bytes(params_bytes(arrays, version))
    state = read_weights(path)
    assert set(state) == {"conv1a.weight", "bn7.running_mean"}
    np.testing.assert_array_equal(state["conv1a.weight"], arrays["arg:conv1a_weight"])
    path.write_bytes(params_bytes(arrays, version)[:-30])
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


FORGED = {
    "negative side": struct.pack("<QQQIii2qiii", 0x112, 0, 1, 0xF993FAC9, 0, 2, -2, 3, 1, 0, 0),
    "product beyond 64 bits": struct.pack("<QQQIii3qiii", 0x112, 0, 1, 0xF993FAC9, 0, 3, 2**40, 2**40, 2**40, 1, 0, 0),
    "no data, sides beyond 64 bits": struct.pack("<QQQIii3qiii", 0x112, 0, 1, 0xF993FAC9, 0, 3, 0, 2**62, 2**62, 1, 0, 0),
    "negative dimensions": struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 0, -3),
    "a name that is no UTF-8": params_bytes({"arg:a_weight": np.zeros(1, np.float32)})[:-12] + b"\xff" * 12,
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_params_files_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(FORGED[kind])
    with pytest.raises(UserError, match=r"net\.params (is damaged|ends too early).*download it again"):
        read_weights(path)


def test_an_unknown_leaf_is_an_unexpected_key_and_not_a_fault() -> None:
    assert mxnet_key("arg:res2a_branch2a_scale") == "b2.conv_branch2a.scale"


def test_keys_that_are_no_texts_are_one_sentence(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds no state dict; expected names and tensors"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_equal_weights_are_equal_files_and_not_rewritten(tmp_path: Path, name: str) -> None:
    """By the file's sum or time the later stages tell whether theirs are made of it."""
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.zeros(2, dtype=torch.int64)}
    path, other = tmp_path / name, tmp_path / "other" / name
    save_weights(weights, path)
    save_weights(weights, other)
    assert path.read_bytes() == other.read_bytes()
    os.utime(path, (1, 1))
    save_weights(weights, path)
    assert path.stat().st_mtime == 1
    for changed in ({**weights, "a": torch.ones(2, dtype=torch.int64)}, {**weights, "c": torch.zeros(1)}):
        save_weights(changed, path)
        assert path.stat().st_mtime != 1
        assert read_weights(path).keys() == changed.keys()
        os.utime(path, (1, 1))


def test_a_disk_that_fills_up_is_one_sentence_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    save_content({"a": torch.zeros(2)}, path)
    before = path.read_bytes()

    def save(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534\nframe #0")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match=r"^\S*w\.pth cannot be written, the disk is probably full \(.* 534\); free disk space"):
        save_content({"a": torch.ones(2)}, path, previous=tmp_path / "old.pth")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    """torch reads such a file as if nothing was wrong."""
    path = tmp_path / "net.pth"
    save_weights({"a.weight": torch.arange(4096.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    assert not torch.load(path, weights_only=True)["a.weight"].equal(torch.arange(4096.0))
    with pytest.raises(UserError, match=r"net\.pth cannot be read \(the checksum of its part .* does not fit\); get it again"):
        read_weights(path)


@pytest.mark.parametrize("odd", [torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse()], ids=["complex", "sparse"])
def test_tensors_that_a_network_cannot_take_are_named(tmp_path: Path, odd: torch.Tensor) -> None:
    torch.save({"a.weight": odd}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth holds sparse, quantized or complex tensors \(a\.weight\)"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("best", [0.9, np.float64(0.9), np.float32(0.9)])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])  # as of NumPy 2, and before
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, prefix: str, best: object, core: bytes) -> None:
    written, path = tmp_path / "written.pth", tmp_path / "model_best.pth"
    torch.save({"epoch": 19, "state_dict": {f"{prefix}head.weight": torch.ones(2)}, "best_map": best}, written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"numpy._core", core).replace(b"numpy.core", core)
            target.writestr(name, content)
    assert read_weights(path)["head.weight"].tolist() == [1.0, 1.0]


def test_arrays_of_numpy_stay_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"head.weight": torch.ones(2)}, "best_map": np.ones(2)}, tmp_path / "arrays.pth")
    with pytest.raises(UserError, match="is no plain tensor file"):
        read_weights(tmp_path / "arrays.pth")

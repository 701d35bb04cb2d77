"""Caffe models, written here as Caffe writes them, against the published names."""

import json
import struct
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from configs.deeplab_schema import DeepLabConfig
from deeplab import convert
from deeplab.convert import layer_name
from deeplab.network import DeepLab, build_deeplab
from tests.deeplab.test_network import GOLDEN
from utils.errors import UserError

EPS_BYTES = struct.pack("<f", 1e-5)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _blob(values: np.ndarray) -> bytes:
    shape = _message(7, _message(1, b"".join(_varint(side) for side in values.shape)))
    return shape + _message(5, values.astype("<f4").tobytes())


def _layer(name: str, kind: str, blobs: list[np.ndarray], settings: bytes = b"") -> bytes:
    content = _message(1, name.encode()) + _message(2, kind.encode())
    return _message(100, content + b"".join(_message(7, _blob(b)) for b in blobs) + settings)


def _caffe_name(module: str) -> str:
    """Return the Caffe name of a trunk module, in Caffe's own scheme."""
    if module.startswith("layer1"):
        return "conv1" if module.endswith("conv") else "bn_conv1"
    layer, block, unit, leaf = module.split(".")
    stage, number = int(layer[5:]), int(block[5:])
    letter = f"b{number - 1}" if stage in (3, 4) and number > 1 else "abc"[number - 1]
    part = {"shortcut": "1", "reduce": "2a", "conv3x3": "2b", "increase": "2c"}[unit]
    return f"{'res' if leaf == 'conv' else 'bn'}{stage}{letter}_branch{part}"


def _model(head: str, *, stem_stride: int = 2) -> tuple[bytes, dict[str, torch.Tensor]]:
    """Return the bytes of a full-size model with few distinct numbers, and the trunk's expected entries."""
    network = cast(DeepLab, build_deeplab(DeepLabConfig()).base)
    modules = {published.rpartition(".")[0]: own.rpartition(".")[0] for own, published in network.published_names.items()}
    rng = np.random.default_rng(0)
    data: list[bytes] = [_message(1, b"net")]
    expected = {}
    for module_name, own in modules.items():
        module = network.get_submodule(own)
        if isinstance(module, torch.nn.Conv2d):
            # Constant weights keep the file quick to make; biases and statistics are random.
            weight = np.full(module.weight.shape, rng.standard_normal(), np.float32)
            stride = stem_stride if module_name == "layer1.conv1.conv" else int(module.stride[0])
            fields = {3: int(module.padding[0]), 4: int(module.kernel_size[0]), 6: stride, 18: int(module.dilation[0])}
            settings = _message(106, b"".join(_number(n, v) for n, v in fields.items()))
            data.append(_layer(_caffe_name(module_name), "Convolution", [weight], settings))
            expected[f"{module_name}.weight"] = torch.from_numpy(weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            name, count = _caffe_name(module_name), module.num_features
            mean, var, gamma, beta = (rng.random(count).astype(np.float32) for _ in range(4))
            data.append(
                _layer(name, "BatchNorm", [4 * mean, 4 * var, np.array([4.0])], _message(139, _varint(3 << 3 | 5) + EPS_BYTES))
            )
            data.append(_layer(name.replace("bn", "scale", 1), "Scale", [gamma, beta]))
            parts = {"running_mean": mean, "running_var": var, "weight": gamma, "bias": beta}
            expected.update({f"{module_name}.{leaf}": torch.from_numpy(v) for leaf, v in parts.items()})
    if head == "voc12":
        for index, rate in enumerate((6, 12, 18, 24)):
            settings = _message(106, _number(3, rate) + _number(4, 3) + _number(18, rate))
            weight, bias = np.full((21, 2048, 3, 3), index, np.float32), np.full(21, index, np.float32)
            data.append(_layer(f"fc1_voc12_c{index}", "Convolution", [weight, bias], settings))
            data.append(_layer(f"fc1_voc12_c{index}_res075", "Convolution", [weight, bias], settings))
    else:
        data.append(_layer("fc1_coco", "Convolution", [np.zeros((91, 2048, 1, 1)), np.zeros(91)], _message(106, _number(4, 1))))
    return b"".join(data), expected


def test_the_voc_model_becomes_the_published_checkpoint(tmp_path: Path) -> None:
    content, expected = _model("voc12")
    source, target = tmp_path / "train2_iter_20000.caffemodel", tmp_path / "out.pth"
    source.write_bytes(content)
    convert.main([str(source), str(target)])
    state = torch.load(target, weights_only=True)
    published = json.loads((GOLDEN / "state_dict_deeplabv2_resnet101_msc.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == published
    for key, value in expected.items():
        torch.testing.assert_close(state[f"base.{key}"], value)
    assert state["base.aspp.c2.bias"].tolist() == [2.0] * 21


def test_the_coco_model_becomes_the_published_init(tmp_path: Path) -> None:
    content, _ = _model("coco")
    source = tmp_path / "init.caffemodel"
    source.write_bytes(content)
    published = json.loads((GOLDEN / "state_dict_deeplabv1_resnet101_coco_init.json").read_text())
    assert {key: list(value.shape) for key, value in convert.run(source).items()} == published


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "model.caffemodel"
    content, _ = _model("coco", stem_stride=1)
    source.write_bytes(content)
    with pytest.raises(UserError, match="'conv1' has stride 1, expected 2"):
        convert.run(source)
    source.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or no Caffe model"):
        convert.run(source)
    source.write_bytes(b"layer { name: 'conv1' }")
    with pytest.raises(UserError, match="Caffe model"):
        convert.run(source)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="neither torchvision's ResNet nor its VGG-16"):
        convert.run(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("caffe", "ours"),
    [
        ("res4b22_branch2c", "layer4.block23.increase.conv"),
        ("bn2a_branch1", "layer2.block1.shortcut.bn"),
        ("scale5c_branch2b", "layer5.block3.conv3x3.bn"),
        ("fc1_voc12_c3", "aspp.c3"),
        ("fc1_coco", "fc"),
    ],
)
def test_layers_have_the_published_names(caffe: str, ours: str) -> None:
    assert layer_name(caffe) == ours


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (_layer("bn_conv1", "BatchNorm", [np.zeros(3)]), "'bn_conv1' has 1 blobs"),
        (_layer("bn_conv1", "BatchNorm", [np.zeros(3), np.zeros(3), np.zeros(2)]), "'bn_conv1' has 3 blobs of other shapes"),
        (_layer("fc1_voc12_c1", "Convolution", [np.zeros((2, 2, 3, 3))]), "no weights of branch c0"),
    ],
)
def test_layers_without_their_weights_are_named(tmp_path: Path, layer: bytes, message: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer)
    with pytest.raises(UserError, match=message):
        convert.run(path)


FORGED = {
    "a blob as a number": _message(100, _message(1, b"conv1") + _number(7, 5)),
    "a layer's settings as a number": _message(100, _message(1, b"conv1") + _number(106, 5)),
    "a type as a number": _message(100, _message(1, b"conv1") + _number(2, 5)),
    "a shape as a number": _message(100, _message(7, _number(7, 3))),
    "a side beyond 64 bits": _message(100, _message(7, _message(7, _message(1, _varint(2**80))))),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_files_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(FORGED[kind])
    with pytest.raises(UserError, match=r"net\.caffemodel is damaged or no Caffe model") as caught:
        convert.run(path)
    assert "\n" not in str(caught.value)

"""Convert weights to this program's names: Caffe's DeepLab models (without Caffe), torchvision's ResNet-101 and VGG-16.

    python -m deeplab convert init.caffemodel deeplabv1_resnet101-coco.pth
    python -m deeplab convert train2_iter_20000.caffemodel deeplabv2_resnet101_msc-vocaug.pth
    python -m deeplab convert resnet101-63fe2227.pth resnet101-imagenet.pth

All expect BGR grey levels minus the mean. train2_iter_20000 was tuned on train and val: scores on val mean nothing for it.
"""

import argparse
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from configs.deeplab_schema import DeepLabConfig
from deeplab.caffe import CaffeLayer, read_caffemodel
from deeplab.network import DeepLab, build_deeplab
from deeplab.weights import BASE, from_torchvision
from utils.errors import UserError
from utils.training.weights import check_finite, listed_keys, read_weights, save_weights

# Copies of the shared branches at smaller scales.
SHARED = ("res075", "res05")
ASPP, FC = "aspp", "fc"
_PARTS = {"1": "shortcut", "2a": "reduce", "2b": "conv3x3", "2c": "increase"}
_UNIT = re.compile(r"^(res|bn|scale)(\d)([a-z])(\d*)_branch(1|2[abc])$")
_ASPP = re.compile(r"^fc1_\w+?_(c\d)$")
_FC = re.compile(r"^fc\d*_[^_]+$")
# Blobs of a normalisation: mean, variance and the factor of both; of a scale: weight and bias.
_BLOBS = {"bn": 3, "scale": 2}
_TOLERANCE = 1e-7


def main(argv: list[str]) -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help=".caffemodel, or a .pth / .safetensors file of torchvision's")
    parser.add_argument("output", type=Path, help=".pth to write")
    arguments = parser.parse_args(argv)
    state = run(arguments.input)
    save_weights(state, arguments.output)
    print(f"{len(state)} entries in {arguments.output}")


def run(path: Path) -> dict[str, Tensor]:
    """Return a file's weights, renamed. Raises UserError for an unknown layer or settings other than the network's."""
    if path.suffix == ".caffemodel":
        state = from_caffe(read_caffemodel(path))
        check_finite(state, path)
        return state
    state = read_weights(path)
    renamed = from_torchvision(state)
    if renamed is state:
        raise UserError(f"{path} holds neither torchvision's ResNet nor its VGG-16 ({listed_keys(list(state))})")
    return renamed


def from_caffe(layers: list[CaffeLayer]) -> dict[str, Tensor]:
    """Return the state dict of DeepLab v2 (`base.` names) or of the COCO initialisation (trunk and `fc`, no prefix).

    Convolutions and normalisation are compared with the network's (kernel, stride, padding, dilation, epsilon, moving-average
    fraction), and the trunk must be complete.

    Raises:
        UserError: naming the layer that does not fit.
    """
    kept = [layer for layer in layers if layer.blobs and not any(mark in layer.name for mark in SHARED)]
    state: dict[str, Tensor] = {}
    settings: dict[str, CaffeLayer] = {}
    for layer in kept:
        name = layer_name(layer.name)
        settings[name] = layer
        entries = _entries(layer)
        state.update({f"{name}.{leaf}": value for leaf, value in entries.items()})
    heads = {name.partition(".")[0] for name in settings} & {ASPP, FC}
    if len(heads) != 1:
        raise UserError(f"the Caffe model has the heads {sorted(heads) or 'none'}, expected fc1_<set>_c0..3 or fc1_<set>")
    _check(state, settings, with_head=heads == {ASPP})
    return {BASE + key: value for key, value in state.items()} if heads == {ASPP} else state


def layer_name(caffe: str) -> str:
    """Return the module name of a Caffe layer, e.g. res4b22_branch2c -> layer4.block23.increase.conv.

    Raises:
        UserError: for a name of another network.
    """
    if caffe in ("conv1", "bn_conv1", "scale_conv1"):
        return f"layer1.conv1.{'conv' if caffe == 'conv1' else 'bn'}"
    if match := _UNIT.match(caffe):
        kind, layer, letter, number, part = match.groups()
        block = int(number) + 1 if number else ord(letter) - ord("a") + 1
        return f"layer{layer}.block{block}.{_PARTS[part]}.{'conv' if kind == 'res' else 'bn'}"
    if match := _ASPP.match(caffe):
        return f"{ASPP}.{match[1]}"
    if _FC.match(caffe):
        return FC
    raise UserError(f"unknown Caffe layer '{caffe}'; expected DeepLab's ResNet-101 (init or train2_iter_20000.caffemodel)")


def _entries(layer: CaffeLayer) -> dict[str, Tensor]:
    blobs = [torch.from_numpy(blob.copy()) for blob in layer.blobs]
    needed = next((count for kind, count in _BLOBS.items() if layer.name.startswith(kind)), 1)
    if len(blobs) < needed or (needed == _BLOBS["bn"] and blobs[2].numel() != 1):
        raise UserError(
            f"Caffe layer '{layer.name}' has {len(blobs)} blobs of other shapes than expected ({needed}); get it again"
        )
    if layer.name.startswith("bn"):
        factor = blobs[2].flatten()
        return {
            "running_mean": blobs[0].flatten() / factor,
            "running_var": blobs[1].flatten() / factor,
            "num_batches_tracked": torch.zeros((), dtype=torch.int64),
        }
    if layer.name.startswith("scale"):
        return {"weight": blobs[0].flatten(), "bias": blobs[1].flatten()}
    return {"weight": blobs[0], **({"bias": blobs[1].flatten()} if len(blobs) > 1 else {})}


def _check(state: dict[str, Tensor], settings: dict[str, CaffeLayer], *, with_head: bool) -> None:
    cfg = DeepLabConfig()
    if with_head:
        shapes = [value.shape for key, value in state.items() if key == f"{ASPP}.c0.weight" and value.dim()]
        if not shapes:
            raise UserError("the Caffe model's head has no weights of branch c0; get it again")
        cfg.dataset.n_classes = int(shapes[0][0])
        cfg.model.atrous_rates = [settings[n].convolution.get("dilation", 1) for n in sorted(settings) if n.startswith(ASPP)]
    network = cast(DeepLab, build_deeplab(cfg).base)
    own = {key: value for key, value in network.state_dict().items() if with_head or not key.startswith(ASPP)}
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own and not key.startswith(f"{FC}.")]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or extra or wrong:
        raise UserError(
            f"the Caffe model is not DeepLab's ResNet-101: {len(missing)} entries missing ({listed_keys(missing)}), "
            f"{len(extra)} unexpected ({listed_keys(extra)}), {len(wrong)} of another shape ({listed_keys(wrong)})"
        )
    # Published module name -> where the module is here.
    named = {published: key for key, published in network.published_names.items()}
    own_module = {name.rpartition(".")[0]: named.get(name, name).rpartition(".")[0] for name in own}
    for name, layer in settings.items():
        if name != FC:
            _compare(network.get_submodule(own_module[name]), layer)


def _compare(module: nn.Module, layer: CaffeLayer) -> None:
    pairs: dict[str, tuple[float, float]] = {}
    if isinstance(module, nn.Conv2d) and layer.convolution:
        own = {"kernel": module.kernel_size, "stride": module.stride, "pad": module.padding, "dilation": module.dilation}
        pairs = {key: (layer.convolution[key], int(own[key][0])) for key in layer.convolution}
    elif isinstance(module, nn.BatchNorm2d) and layer.kind == "BatchNorm":
        pairs = {"eps": (layer.bn_eps, module.eps), "momentum": (1 - layer.bn_fraction, module.momentum or 0.0)}
    for key, (found, expected) in pairs.items():
        if abs(found - expected) > max(_TOLERANCE, _TOLERANCE * abs(expected)):
            raise UserError(f"Caffe layer '{layer.name}' has {key} {found:g}, expected {expected:g}; it is another network")

"""Weights in: initialisation of a trunk, and checkpoints; nothing is dropped without a word."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from configs.deeplab_schema import PLAIN
from deeplab.network import TRUNK, DeepLab, Experts, MultiScale
from models.backbones.resnet import caffe_resnet_name
from models.backbones.vgg16 import caffe_vgg_name
from models.cam_net import Trunk, new_keys
from utils.data.images import MAX_GREY
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.training.hub import HubWeights
from utils.training.weights import check_shapes, listed_keys, read_weights

BASE = "base."
IMAGENET_STD = (0.229, 0.224, 0.225)  # torchvision's, R, G, B
CAM_HEAD = "head"  # of first-stage networks without published names
COUNTER = "num_batches_tracked"
# Ending of the last classifier's name -> method.
HEADS = {"_3rd": "cdl_e", "_2nd": "cdl_b"}
# Beside the checkpoints of a training: what it started from. Hidden, for it is no sign that anything was trained.
INIT_NOTE = ".init.txt"
RANDOM, UNKNOWN = "none (random weights)", "unknown (no note of a training beside the weights)"
SEGMENTATION_HEAD = re.compile(r"(aspp|fov)\.(c|conv)\d")
CLASSIFIERS = ("fc", "fc8", "classifier", "head", "last_linear", "extra_last_conv")


class Start(NamedTuple):
    """What a training starts from: `init` as score files name it, and `told`, one sentence of what was taken."""

    init: str
    told: str


def trained_for(state: Mapping[str, Tensor]) -> str:
    """Return, by the head of a network's weights, whether they have seen masks: what they were trained for.

    Args:
        state: entries without `base.`. The published COCO init has a classifier named like a classification network's, but
            convolutional, (classes, 2048, 1, 1).
    """
    convolutional = "fc.weight" in state and state["fc.weight"].dim() == 4
    if convolutional or any(SEGMENTATION_HEAD.match(key) for key in state):
        return "segmentation weights"
    classifies = any(key.partition(".")[0] in CLASSIFIERS for key in state)
    return "classification weights" if classifies else "a trunk alone, which does not say what it was trained for"


def write_init(folder: Path, init: str) -> None:
    """Note in a folder of checkpoints what their training started from."""
    write_text_atomic(folder / INIT_NOTE, f"{init}\n")


def read_init(checkpoint: Path | None) -> str:
    """Return what the training of a checkpoint started from; UNKNOWN where no note beside it says so."""
    note = None if checkpoint is None else checkpoint.parent / INIT_NOTE
    return note.read_text(encoding="utf-8").strip() if note is not None and note.is_file() else UNKNOWN


def load_checkpoint(network: MultiScale, path: str | Path) -> None:
    """Load a segmentation checkpoint, published or ours, with or without `base.` and `module.`; every entry must fit.

    Raises:
        UserError: for weights of another method; listing missing, unexpected or wrongly shaped entries.
    """
    state = _without_base(read_weights(path))
    own = network.base.state_dict()
    if (found := _method(state)) != (wanted := _method(own)):
        raise UserError(
            f"{path} is of method={found}, this network of method={wanted}; set method={found}, or take another file"
        )
    missing = [k for k in own if k not in state and not k.endswith(COUNTER)]
    unexpected = [k for k in state if k not in own]
    if missing or unexpected:
        raise UserError(
            f"{path} does not fit this network: {len(missing)} missing keys ({listed_keys(missing)}), {len(unexpected)} "
            f"unexpected ({listed_keys(unexpected)}); check model.name and the path"
        )
    _check_shapes(own, state, path, network.base)
    network.base.load_state_dict({**own, **state})


def load_initial(network: MultiScale, path: str | Path, allow_missing: list[str], fetched: HubWeights | None = None) -> Start:
    """Start from a weight file: the whole trunk must be in it, and no other one; a head is taken when it has the right shape.

    Understood: published init and segmentation files, torchvision's ResNet and VGG-16, and, for first-stage trunks, their
    own weights and first-stage networks.

    Args:
        network: to load into.
        path: weight file.
        allow_missing: fnmatch patterns of trunk keys it may lack.
        fetched: weights to take instead of a file's.

    Returns:
        what the file is, and one sentence saying what was taken and what not.

    Raises:
        UserError: when trunk keys are missing or of another shape. (The published program went on from random weights.)
    """
    base = network.base
    if not isinstance(base, DeepLab):
        raise TypeError(f"expected DeepLab, got {type(base)}")
    state = _without_base(fetched.state if fetched else read_weights(path))
    path = fetched.source if fetched else path
    before = UNKNOWN if fetched else read_init(Path(path))
    init = f"{path} ({trained_for(state)}{'' if before == UNKNOWN else f'; its own init: {before}'})"
    if base.takes_grey_levels:
        state = from_torchvision(state)
    alias = base.trunk_alias()
    state = {alias.get(key.removeprefix("backbone."), key): value for key, value in state.items()}
    own, names = base.state_dict(), set(base.published_names.values())
    trunk = {k: v for k, v in own.items() if k in names}
    allowed = [*allow_missing, *(key for key in new_keys(base) if key.startswith(TRUNK))]
    missing = [k for k in trunk if k not in state and not k.endswith(COUNTER) and not _matches(k, allowed)]
    if missing:
        raise UserError(
            f"init file {path} lacks {len(missing)} of the {len(trunk)} trunk entries "
            f"({listed_keys(missing)}); check model.init_model, model.name and model.backbone"
        )
    if foreign := [k for k in state if k not in own and _is_of_a_trunk(k, alias or trunk, base)]:
        raise UserError(
            f"init file {path} is of another trunk: it has {len(foreign)} entries more "
            f"({listed_keys(foreign)}); check model.name and model.backbone"
        )
    _check_shapes(trunk, state, path, base)
    new_head = [k for k in own if k not in trunk and (k not in state or state[k].shape != own[k].shape)]
    taken = {k: v for k, v in state.items() if k in own and k not in new_head}
    base.load_state_dict({**own, **taken})
    left = [k for k in state if k not in taken]
    start = "from it as well" if not new_head else "at random"
    rest = f"; not used of it: {listed_keys(left)}" if left else ""
    return Start(init, f"init: {init}: {len(taken)} entries taken, head starts {start}{rest}")


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ResNet or VGG-16 entries to the published names; other states are returned as they are.

    torchvision's networks take RGB scaled to unit range and normalised; the published ones BGR grey levels minus the mean.
    So the input channels of the first convolution are reversed and divided by 255 * std. In ResNets torchvision strides
    on the 3x3 convolution, the published network on the 1x1 before it: the weights fit, the features of layer3's first
    block differ a little until fine-tuned.
    """
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        renamed = {name: value for key, value in state.items() if (name := caffe_resnet_name(key))}
        stem = "layer1.conv1.conv.weight"
    elif "features.0.weight" in state and "features.28.weight" in state:
        renamed = {name: value for key, value in state.items() if (name := caffe_vgg_name(key))}
        stem = "layer1.0.0.weight"
    else:
        return state
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    renamed[stem] = (renamed[stem] / (MAX_GREY * std)).flip(1)
    return renamed


def _without_base(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(BASE): value for key, value in state.items()}


def _method(state: Mapping[str, Tensor]) -> str:
    """Return the method that a network's entries are of, by the classifiers it has."""
    parts = {key.partition(".")[0] for key in state} - {Experts.affinity_name}
    return next((name for ending, name in HEADS.items() if any(part.endswith(ending) for part in parts)), PLAIN)


def _check_shapes(own: dict[str, Tensor], state: dict[str, Tensor], path: str | Path, base: nn.Module) -> None:
    head = f"{getattr(base, 'head_name', '')}."
    outputs = [len(value) for key, value in base.state_dict().items() if key.startswith(head)]
    check_shapes(
        own, state, path, count=outputs[-1], classes="dataset.n_classes", keys="model.name, model.backbone and model.width"
    )


def _is_of_a_trunk(key: str, trunk: Iterable[str], base: DeepLab) -> bool:
    """Return whether an entry belongs to a part the trunk has, such as a block too many, and not to a head or classifier."""
    part = key.partition(".")[0]
    parts = {name.partition(".")[0] for name in trunk} - {base.head_name, CAM_HEAD}
    return part in parts and not _matches(key, cast(Trunk, base.backbone).classifier_keys)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)

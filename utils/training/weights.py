"""Weight files of every kind to a state dict, and loading that never drops a key silently."""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from utils.errors import SPACE, UserError, damage, user_errors
from utils.files import atomic_path, only_file, weight_file
from utils.training.mxnet import read_params

LISTED_KEYS = 10
NETWORK_KEYS = {"global": "state_dict", "local": "local_dict", "cnn": "cnn_dict"}
# DeiT's and MAE's releases hold their network under this name.
RELEASED = "model"
# res2a -> b2, res2b1 -> b2_1; the branch keeps its name.
_BLOCK = re.compile(r"^(res|bn)(\d)([a-z])(\d*)_(branch\w+?)_(\w+)$")
_LEAVES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "moving_mean": "running_mean",
    "var": "running_var",
    "moving_var": "running_var",
}
# What a pickled number of NumPy is made by, under its names before and since NumPy 2, and of the types of results.
_MAKER = np.float64().__reduce__()[0]
_NUMBERS: list[Any] = [
    np.dtype,
    *((_MAKER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (bool, np.int32, np.int64, np.float32, np.float64)),
]
_DROPPED_PREFIX = "linear1000_"


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights under their published names, where it knows them (`to_published`)."""
    rename = getattr(network, "to_published", dict)
    return dict(rename(network.state_dict()))


def own_state(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the network's own names, where it knows the published ones (`from_published`).

    Raises:
        UserError: where names that mean the same weights hold different ones.
    """
    with user_errors():
        return dict(getattr(network, "from_published", dict)(state))


def read_weights(path: str | Path, network: str = "global") -> dict[str, Tensor]:
    """Read a weight file.

    Args:
        path: MXNet `.params` (ResNet-38 names are translated), `.safetensors`, or anything `torch.load(weights_only=True)`
            reads: a plain state dict, one under `model` (DeiT), or a training checkpoint (ours or published) with `state_dict`
            and others.
        network: which part of a training checkpoint, a key of `NETWORK_KEYS`.

    Returns:
        key -> tensor, any `module.` prefix removed.

    Raises:
        UserError: when the file is missing, damaged, has no such network, or holds values that are not finite.
    """
    path = weight_file(path)
    if not path.is_file():
        raise UserError(
            f"weight file {path} does not exist; check the path, or say model.pretrained=hub (torchvision's or timm's), or "
            "leave it empty to start from scratch"
        )
    if path.suffix == ".params":
        state = {key: value for name, value in read_params(path).items() if (key := mxnet_key(name)) is not None}
    else:
        part = _network_part(_load(path), network, path)
        state = {key.removeprefix("module."): value for key, value in part.items()}
    check_finite(state, path)
    return state


def check_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights that are not finite: a network that holds them says nothing about any picture, without an error.

    Raises:
        UserError: naming the entries.
    """
    broken = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{source} holds NaN or infinite values in {len(broken)} of {len(state)} entries ({listed_keys(broken)}); get it "
            "again, or take a checkpoint from before the training diverged"
        )


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights alone, on the CPU and contiguous: as safetensors where `path` ends so, else as `torch.save` does.

    A file that holds exactly these is left alone: by its time, size or sum others tell whether their outputs are of it.

    Raises:
        UserError: when the file cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    if path.is_file() and _holds(path, state):
        return
    if path.suffix == ".safetensors":
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(state))
    else:
        save_content(state, path)


def _holds(path: Path, state: Mapping[str, Tensor]) -> bool:
    try:
        there = _load(path)
    except UserError:
        return False
    if not isinstance(there, dict) or there.keys() != state.keys():
        return False
    pairs = [(value, there[key]) for key, value in state.items()]
    return all(isinstance(old, Tensor) and old.dtype == new.dtype and old.equal(new) for new, old in pairs)


def save_content(content: Any, path: Path, *, previous: Path | None = None) -> None:
    """Write as `torch.save` does (atomic), and equal content as equal bytes.

    Args:
        content: tensors and plain values.
        path: file to write.
        previous: the name that the file there before gets; None: it is replaced.

    Raises:
        UserError: when the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:  # given a name, torch writes it into the file: another one each time
                torch.save(content, file)
        except RuntimeError as error:  # all that torch tells of a full disk
            raise UserError(f"{path} cannot be written, the disk is probably full ({first_line(error)}); {SPACE}") from error
        if previous is not None and path.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)  # a second name: `path` itself is never missing in between
            except OSError:  # no such links on this file system: after a kill in between, `previous` is there to go back to
                path.replace(previous)


def mxnet_key(name: str) -> str | None:
    """Translate an MXNet ResNet-38 name to the published PyTorch one; None for the ImageNet classifier."""
    name = name.split(":", 1)[-1]
    if name.startswith(_DROPPED_PREFIX):
        return None
    match = _BLOCK.match(name)
    if match is None:
        module, _, leaf = name.partition("_")
        return f"{module}.{_LEAVES.get(leaf, leaf)}"
    kind, level, letter, number, branch, leaf = match.groups()
    block = f"b{level}" if letter == "a" else f"b{level}_{number}"
    return f"{block}.{'conv' if kind == 'res' else 'bn'}_{branch}.{_LEAVES.get(leaf, leaf)}"


def load_weights(
    network: nn.Module,
    state: dict[str, Tensor],
    *,
    source: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> None:
    """Load `state` (published or our key names); every entry must fit.

    Args:
        network: what to load into.
        state: from `read_weights`.
        source: file name for messages.
        allow_missing: fnmatch patterns of network keys that may keep their present values.
        allow_unexpected: fnmatch patterns of file keys that may be ignored. A key that fits both patterns is also ignored where
            only its shape differs: another data set's classifier of the same name (DeiT).

    Raises:
        UserError: listing missing, unexpected or wrongly shaped keys.
    """
    own = network.state_dict()
    allow_missing, allow_unexpected = list(allow_missing), list(allow_unexpected)
    state = {
        key: value
        for key, value in own_state(network, state).items()
        if key not in own or value.shape == own[key].shape or not (_fits(key, allow_missing) and _fits(key, allow_unexpected))
    }
    # Counters of BatchNorm came with torch 0.4; older files lack them and nothing here reads them.
    optional = [*allow_missing, "*.num_batches_tracked"]
    missing = [k for k in own if k not in state and not _fits(k, optional)]
    unexpected = [k for k in state if k not in own and not _fits(k, allow_unexpected)]
    if missing or unexpected:
        parts = [
            f"{len(keys)} {kind} keys ({listed_keys(keys)})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise UserError(
            f"{source} does not fit this network: {' and '.join(parts)}; check model.backbone, or allow them by pattern in "
            "model.allow_missing / model.allow_unexpected"
        )
    count = getattr(network, "num_classes", 0)
    check_shapes(own, state, source, count=count, classes="data.num_classes", keys="model.backbone and model.width")
    fitting = {k: v for k, v in state.items() if k in own}
    if not any(not k.startswith("head.") for k in fitting):
        raise UserError(f"{source} holds nothing this network's trunk could use; check model.backbone")
    network.load_state_dict({**own, **fitting})


def _fits(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def _load(path: Path) -> Any:
    try:
        return load_file(path) if path.suffix == ".safetensors" else read_tensors(path)
    except UnpicklingError as error:
        raise UserError(f"weight file {path} is no plain tensor file ({first_line(error)}); convert it first") from error
    except Exception as error:  # see `read_tensors`
        raise UserError(f"weight file {path} cannot be read ({damage(error)}); get it again") from error


def read_tensors(path: Path) -> Any:
    """Return what `torch.load(weights_only=True)` does, on the CPU, of a file whose sums fit: torch does not look at them.

    Beside tensors and plain values, numbers of NumPy are taken, such as the best score that published checkpoints hold.

    Raises:
        Exception: damage, which torch reports as several unrelated types (RuntimeError, EOFError, pickle, ...).
    """
    if zipfile.is_zipfile(only_file(path)):
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of its part {damaged} does not fit")
    with torch.serialization.safe_globals(_NUMBERS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _network_part(content: Any, network: str, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        key = NETWORK_KEYS[network]
        if not isinstance(content.get(key), dict):
            raise UserError(f"{path} holds no {network} network; use a training checkpoint that does (model/last.pth)")
        content = content[key]
    elif isinstance(content, dict) and isinstance(content.get(RELEASED), dict):
        content = content[RELEASED]
    elif network == "local":  # made like the global one, so its keys would not tell
        raise UserError(f"{path} holds one network only, no {network} one; use a training checkpoint (model/last.pth)")
    return state_dict_of(content, path)


def state_dict_of(content: Any, source: str | Path) -> dict[str, Tensor]:
    """Return `content` if it is a state dict of plain tensors: dense, of real numbers. Raises UserError naming what is not."""
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise UserError(f"{source} holds no state dict; expected names and tensors")
    if odd := [k for k, v in content.items() if v.layout != torch.strided or v.is_quantized or v.is_complex()]:
        raise UserError(f"{source} holds sparse, quantized or complex tensors ({listed_keys(odd)}); save them dense and real")
    return content


def check_shapes(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    count: int,
    classes: str,
    keys: str,
) -> None:
    """Refuse entries of another shape.

    Args:
        own: entries of the network.
        state: what to load; entries the network lacks do not matter.
        source: file name for messages.
        count: how many classes the network has; layers with as many outputs, or one more (background), belong to the classes.
        classes: setting that says so.
        keys: settings that say how large the other layers are.

    Raises:
        UserError: naming the setting to change.
    """
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    if not wrong:
        return
    more = {state[k].shape[0] - own[k].shape[0] for k in wrong if own[k].dim() and state[k].dim()}
    per_class = [k for k in wrong if own[k].shape[1:] == state[k].shape[1:] and own[k].shape[0] in (count, count + 1)]
    if per_class == wrong and len(more) == 1:
        found = count + more.pop()
        raise UserError(
            f"{source} does not fit: it was trained with {classes}={found}, this network has {count}; set {classes}={found}"
        )
    key = next((k for k in wrong if k not in per_class), wrong[0])
    found_shape, expected_shape = list(state[key].shape), list(own[key].shape)
    raise UserError(
        f"{source} does not fit: {len(wrong)} entries differ in shape, e.g. {key} is {found_shape}, expected {expected_shape}; "
        f"check {keys}"
    )


def listed_keys(keys: list[str]) -> str:
    """Return the first of some key names, and how many more there are."""
    more = f", and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return ", ".join(keys[:LISTED_KEYS]) + more


def first_line(error: Exception) -> str:
    """Return the first line of what torch says of an error, which can be many or none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

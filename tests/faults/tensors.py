"""Damaged weights and training checkpoints: files that torch reads, but hold something else than they should."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.faults.mill import REFUSED, SAME, SOUND, WHOLE

Spoil = Callable[[Path], None]
State = dict[str, Any]


def _content(change: Callable[[Any], Any], path: Path) -> None:
    torch.save(change(torch.load(path, weights_only=True)), path)


def _first(state: State, dims: int = 4) -> str:
    """Return the name of the first convolution's weights (or of the first entry with so many dimensions)."""
    return next(name for name, value in state.items() if isinstance(value, torch.Tensor) and value.dim() == dims)


def _entry(change: Callable[[torch.Tensor], Any], dims: int = 4) -> Callable[[State], State]:
    def changed(state: State) -> State:
        name = _first(state, dims)
        return {**state, name: change(state[name])}

    return changed


def _with(value: float, tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[0] = value
    return tensor


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {k: change(v) if v.is_floating_point() else v for k, v in state.items()}


class Payload:
    """Pickled, it would run a command where it is read."""

    def __reduce__(self) -> Any:
        return print, ("code ran",)


_STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "NaN": (_entry(partial(_with, float("nan"))), REFUSED),
    "infinite": (_entry(partial(_with, float("inf"))), REFUSED),
    "NaN in a normalisation": (_entry(partial(_with, float("nan")), 1), REFUSED),
    "an entry missing": (lambda s: {k: v for k, v in s.items() if k != _first(s)}, REFUSED),
    "an entry too many": (lambda s: {**s, "extra.weight": torch.zeros(1)}, REFUSED),
    "all names other": (lambda s: {f"x{k}": v for k, v in s.items()}, REFUSED),
    "half the width": (_each(lambda v: v[: max(1, len(v) // 2)] if v.dim() else v), REFUSED),
    "a class more": (lambda s: {**s, (k := list(s)[-1]): torch.cat([s[k], s[k][:1]])}, REFUSED),
    "turned shapes": (_entry(lambda v: v.transpose(0, 1).contiguous()), REFUSED),
    "a number for a tensor": (_entry(lambda v: 1.0), REFUSED),
    "a scalar": (_entry(lambda v: v.sum()), REFUSED),
    "an empty tensor": (_entry(lambda v: v[:0]), REFUSED),
    "whole numbers": (_entry(lambda v: v.long()), WHOLE),
    "half precision": (_each(lambda v: v.half()), WHOLE),
    "double precision": (_each(lambda v: v.double()), SAME),
    "complex numbers": (_entry(lambda v: v.to(torch.complex64)), REFUSED),
    "a sparse tensor": (_entry(lambda v: v.to_sparse()), SAME),
    "quantized": (_entry(lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)), REFUSED),
    "names with module.": (lambda s: {f"module.{k}": v for k, v in s.items()}, SOUND),
    "in a dictionary, state_dict": (lambda s: {"state_dict": s, "epoch": 1}, SOUND),
    "names that are numbers": (lambda s: dict(enumerate(s.values())), REFUSED),
    "nothing": (lambda s: {}, REFUSED),
    "a list": (lambda s: list(s.values()), REFUSED),
    "a tensor": (lambda s: torch.zeros(3), REFUSED),
    "null": (lambda s: None, REFUSED),
    "code": (lambda s: {**s, "x": Payload()}, REFUSED),
}
WEIGHTS: dict[str, tuple[Spoil, str]] = {
    name: (partial(_content, change), expect) for name, (change, expect) in _STATES.items()
}


def _network(change: Callable[[State], Any]) -> Callable[[State], State]:
    return lambda content: {**content, "state_dict": change(content["state_dict"])}


def _optimizer(change: Callable[[torch.Tensor], Any]) -> Callable[[State], State]:
    def changed(content: State) -> State:
        state = content["optimizer"]["state"]
        key = next(iter(state))
        inside = {k: change(v) if isinstance(v, torch.Tensor) and v.dim() else v for k, v in state[key].items()}
        return {**content, "optimizer": {**content["optimizer"], "state": {**state, key: inside}}}

    return changed


def _both(change: Callable[[bytes], bytes], path: Path) -> None:
    for each in (path, path.with_name(path.name + ".previous")):
        each.write_bytes(change(each.read_bytes()))


def _only_last(change: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))


_CONTENTS: dict[str, tuple[Callable[[State], Any], str]] = {
    **{name: (_network(change), expect) for name, (change, expect) in _STATES.items()
       if name not in ("names with module.", "in a dictionary, state_dict", "double precision", "a sparse tensor")},
    "NaN in the optimiser": (_optimizer(partial(_with, float("nan"))), REFUSED),
    "momenta of another shape": (_optimizer(lambda v: v.reshape(-1)[:1]), REFUSED),
    "momenta that are texts": (_optimizer(lambda v: "x"), REFUSED),
    "no optimiser": (lambda c: {k: v for k, v in c.items() if k != "optimizer"}, REFUSED),
    "an optimiser that is null": (lambda c: {**c, "optimizer": None}, REFUSED),
    "an optimiser without groups": (lambda c: {**c, "optimizer": {**c["optimizer"], "param_groups": []}}, REFUSED),
    "an empty position": (lambda c: {**c, "position": {}}, REFUSED),
    "a position that is a text": (lambda c: {**c, "position": "x"}, REFUSED),
    "a time that is NaN": (lambda c: {**c, "seconds": float("nan")}, WHOLE),
    "a time that is a text": (lambda c: {**c, "seconds": "x"}, REFUSED),
    "an empty identity": (lambda c: {**c, "identity": {}}, REFUSED),
    "an identity that is a list": (lambda c: {**c, "identity": [1]}, REFUSED),
    "a latest that is a text": (lambda c: {**c, "latest": "x"}, REFUSED),
    "a best that is a text": (lambda c: {**c, "best": "x"}, REFUSED),
    "code": (_network(_STATES["code"][0]), SOUND),
    "weights alone": (lambda c: c["state_dict"], REFUSED),
}  # fmt: skip
_CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut at 50%": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(range(256)) * (len(content) // 256),
    "last byte gone": lambda content: content[:-1],
}
# A checkpoint of several networks that another run starts from.
NETWORKS: dict[str, tuple[Spoil, str]] = {
    name: (partial(_content, _network(change)), expect)
    for name, (change, expect) in _STATES.items()
    if name not in ("in a dictionary, state_dict", "code")
}
# The one before is gone back to, and what follows is the same.
CHECKPOINTS: dict[str, tuple[Spoil, str]] = {
    **{name: (partial(_content, change), expect) for name, (change, expect) in _CONTENTS.items()},
    **{name: (partial(_only_last, change), SOUND) for name, change in _CUTS.items()},
    **{f"it and the one before {name}": (partial(_both, change), REFUSED) for name, change in _CUTS.items()},
    "missing": (Path.unlink, SOUND),
}

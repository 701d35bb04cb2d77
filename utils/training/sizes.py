"""Tensors without values: how much memory those of a computation take while it runs, and its operations."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

_aten: Any = torch.ops.aten
# What autocast computes in float32 on CUDA but not on CPUs: of what networks and losses here use, what keeps large results.
FLOAT32_ON_CUDA = ("softmax.int", "log_softmax.int", "layer_norm", "group_norm", "exp", "log", "pow.Tensor_Scalar")


class Ledger(TorchDispatchMode):
    """Bytes alive, their peak, and operations, of everything computed in it."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.flops = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except DataDependentOutputException:  # the host reads a value that nobody knows
            return func.overloadpacket == _aten.equal or self._read(args[0])
        except DynamicOutputShapeException:
            if func.overloadpacket != _aten.nonzero:
                raise
            out = args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)  # at most so many
        self.hold(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        if counted := flop_registry.get(func.overloadpacket):
            self.flops += counted(*args, **kwargs, out_val=out)
        return out

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count what these take, until nothing holds it any more."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self.alive += storage.nbytes()
                self._known[key] = weakref.ref(storage, partial(self._forget, key, storage.nbytes()))
        self.peak = max(self.peak, self.alive)

    def _read(self, tensor: Tensor) -> Any:
        kind = float if tensor.is_floating_point() else bool if tensor.dtype == torch.bool else int
        return kind(1)

    def _forget(self, key: int, size: int, _: weakref.ref[Any]) -> None:
        del self._known[key]
        self.alive -= size


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Have autocast on the CPU compute in float32 what it does on CUDA."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for name in FLOAT32_ON_CUDA:
            library.impl(name, _in_float32(name), "AutocastCPU")
        yield
    finally:
        library._destroy()


def _in_float32(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(_aten, packet), overload or "default")

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return operation(*tree_map(_widened, args), **tree_map(_widened, kwargs))

    return call


def _widened(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 else leaf


def bytes_of(held: Any) -> int:
    """Return what the tensors in nested containers take, those that share memory once."""
    tensors = (leaf for leaf in tree_leaves(dict(held) if isinstance(held, Mapping) else held) if isinstance(leaf, Tensor))
    return sum({leaf.untyped_storage()._cdata: leaf.untyped_storage().nbytes() for leaf in tensors}.values())

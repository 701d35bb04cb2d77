"""A GPU that need not be there: tensors that say they are on it, whose operations check every placement as a real one would.

Built on torch's `FakeTensorMode`: a fake tensor has a shape, a type and a device, but no values; an operation on tensors of
different devices raises, as on a GPU. What the host makes and reads stays real. Backward passes need a real device.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import _lru_cache_wrapper
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from models.backbones.resnet import BLOCKS

GPU = torch.device("cuda", 0)
HOST = torch.device("cpu")
ROOT = Path(__file__).parents[2]
PROJECT = ("models", "utils", "scripts", "deeplab")
_aten = torch.ops.aten
# What gives the host a value of a tensor: it waits until the GPU has computed it.
READS = {_aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.repeat_interleave}
COPIES = {_aten._to_copy, _aten.copy_}
WATCHED = READS | COPIES
LIFTS = {_aten.lift_fresh.default, _aten.lift_fresh_copy.default, _aten.lift.default}


class FakeGpu(FakeTensorMode):
    """The mode networks are built and moved in; `running` is for what uses them.

    Args:
        follows: tensors have values too, computed on the CPU, wherever all they are made of has: for programs whose course
            depends on values, such as the CRF's lattice.

    Attributes:
        waits: operations by which the host waited for the GPU, in order.
    """

    def __init__(self, *, follows: bool = False) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.follows = follows
        self.cache_enabled = not follows  # results from the cache have no values
        self.waits: list[str] = []
        self.runs = False

    @contextmanager
    def running(self) -> Iterator["FakeGpu"]:
        """Run what is inside as on a machine with this GPU: tensors are real until they go there, and when they come back."""
        with self, _Host(self), mock.patch("torch.from_numpy", _from_numpy), mock.patch.object(self, "runs", True):
            yield self

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation: checked by the fake tensors, and with values where these are followed."""
        kwargs = kwargs or {}
        if self.runs:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, FakeTensor) and leaf.constant is not None:  # torch would compute with it, on the GPU
                    leaf.known, leaf.constant = leaf.constant, None  # type: ignore[attr-defined]
            if any(_is_real(leaf) for leaf in tree_leaves((args, kwargs))) and func not in LIFTS:
                args, kwargs = tree_map(self._faked, (args, kwargs))
            if func.overloadpacket in WATCHED:
                self._note_wait(func, args, kwargs)
        try:
            out = super().dispatch(func, types, args, kwargs)
        except DataDependentOutputException:
            if not (self.follows and _has_values((args, kwargs))):
                return self.runs if func.overloadpacket == _aten.equal else self._unknown(args[0])
            return self._on_host(func, args, kwargs)
        except DynamicOutputShapeException:
            if not (self.follows and _has_values((args, kwargs))):
                if func.overloadpacket == _aten.nonzero:  # as of ones
                    return self._shaped(args[0].numel(), args[0].dim(), dtype=torch.int64)
                raise
            return tree_map(self._placed, self._on_host(func, args, kwargs))
        if self.follows and not _is_composite(func) and _has_values((args, kwargs)):
            for fake, real in zip(tree_leaves(out), tree_leaves(self._on_host(func, args, kwargs)), strict=True):
                if isinstance(fake, FakeTensor):
                    fake.known = real  # type: ignore[attr-defined]
        return out

    def read(self, value: Any) -> Any:
        """Return what the host gets of a result: values where they are known, else ones."""
        if not isinstance(value, FakeTensor) or value.device.type != "cpu":
            return value
        with _disable_current_modes():
            known = getattr(value, "known", None)
            return torch.ones(value.shape, dtype=value.dtype) if known is None else known

    def _note_wait(self, func: Any, args: Any, kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        if func.overloadpacket in READS and "cuda" in kinds and "output_size" not in kwargs:
            self.waits.append(f"{func} in {_place()}")
        if func.overloadpacket in COPIES and not kwargs.get("non_blocking", len(args) > 2 and args[2]):
            there = torch.device(kwargs.get("device") or args[0].device).type
            if kinds != {there}:
                self.waits.append(f"copy from {tensors[-1].device.type} to {there} in {_place()}")

    def _faked(self, leaf: Any) -> Any:
        if not _is_real(leaf):
            return leaf
        fake = self.from_tensor(leaf)
        fake.known = leaf  # type: ignore[attr-defined]
        return fake

    def _unknown(self, tensor: Tensor) -> Any:
        """Return what the host reads where no value is known: 1; while networks are built 0, for they draw until all fits."""
        return float(self.runs) if tensor.is_floating_point() else self.runs if tensor.dtype == torch.bool else int(self.runs)

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        with _disable_current_modes():
            return func(*tree_map(_values, args), **tree_map(_values, kwargs))

    def _placed(self, real: Any) -> Any:
        if not isinstance(real, Tensor):
            return real
        fake = self._shaped(real.shape, dtype=real.dtype)
        fake.known = real
        return fake

    def _shaped(self, *size: Any, dtype: torch.dtype) -> Any:
        with _disable_current_modes():
            empty = torch.empty(*size, dtype=dtype, device="meta")
        return FakeTensor(self, empty, GPU)


class _Host(TorchFunctionMode):
    """What touches no tensor of the GPU is done for real."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(_concerns_gpu(leaf) for leaf in tree_leaves((args, kwargs))):
            with _disable_current_modes():
                return func(*args, **{name: value for name, value in kwargs.items() if name != "pin_memory"})
        return tree_map(self.gpu.read, func(*args, **kwargs))


def _is_composite(func: Any) -> bool:
    """Return whether an operation is made of others, which have given its results their values."""
    key = "CompositeImplicitAutograd"
    return func.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


_real_from_numpy = torch.from_numpy


def _from_numpy(array: Any) -> Tensor:
    with _disable_current_modes():  # no function mode sees it
        return _real_from_numpy(array)


def _place() -> str:
    """Return the line of the program that is being run."""
    own = [(file, line) for file, line in _frames() if file.parts[: len(ROOT.parts)] == ROOT.parts]
    inside = [(file.relative_to(ROOT), line) for file, line in own if file.relative_to(ROOT).parts[0] in PROJECT]
    return f"{inside[0][0]}:{inside[0][1]}" if inside else "a test"


def _frames() -> Iterator[tuple[Path, int]]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield Path(frame.f_code.co_filename), frame.f_lineno
        frame = frame.f_back


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)


def _concerns_gpu(leaf: Any) -> bool:
    if isinstance(leaf, (torch.device, str)):
        return str(leaf).startswith("cuda")
    return isinstance(leaf, FakeTensor)


def _values(leaf: Any) -> Any:
    if isinstance(leaf, FakeTensor):
        return leaf.known  # type: ignore[attr-defined]
    return HOST if isinstance(leaf, torch.device) else leaf


def _has_values(arguments: Any) -> bool:
    return all(hasattr(leaf, "known") for leaf in tree_leaves(arguments) if isinstance(leaf, FakeTensor))


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` for fake parameters, which torch cannot change in place."""
    for child in self.children() if recurse else ():
        child._apply(change)
    with torch.no_grad():
        for key, parameter in self._parameters.items():
            if parameter is not None and (changed := change(parameter)) is not parameter:
                self._parameters[key] = nn.Parameter(changed, parameter.requires_grad)
        for key, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[key] = change(buffer)
    return self


@contextmanager
def fake_gpu(*, follows: bool = False) -> Iterator[FakeGpu]:
    """Give a fake GPU that supports what an H100 does, and forget afterwards what the program has kept of it."""
    with ExitStack() as stack:
        for target, answer in {
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.cuda.is_bf16_supported": lambda *_, **__: True,
            "torch.cuda.Event": mock.MagicMock,
            "torch.nn.Module._apply": _apply,
        }.items():
            stack.enter_context(mock.patch(target, answer))
        # A network's later blocks repeat its operations.
        stack.enter_context(mock.patch.dict(BLOCKS, dict.fromkeys(BLOCKS, (1, 1, 2, 1))))
        # Weights without values need no draws; they are half of the time.
        for name in [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]:
            stack.enter_context(mock.patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        # cuDNN's own operations (sampling of a grid) have no fake form; those they stand for have.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(forget_tensors)
        forget_tensors()
        yield FakeGpu(follows=follows)


def forget_tensors() -> None:
    """Empty the program's caches: a later test would meet tensors of another mode in them."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PROJECT:
            for value in vars(module).values():
                if isinstance(value, _lru_cache_wrapper):
                    value.cache_clear()

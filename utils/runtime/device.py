"""Precision, compiling, threads and memory, by device. Torch is loaded where it is used: worker processes import this too."""

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


class Computing(Protocol):
    """The keys every configuration with networks has: where to compute, on how many CPU threads, and how exactly."""

    device: str
    threads: int
    precision: str


def autocast_for(precision: str, device: "torch.device") -> AbstractContextManager[object]:
    """Return the forward pass's context: auto is bf16 autocast on CUDA and float32 on the CPU; see `set_up_torch` for fp32."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        import torch

        return torch.autocast("cpu" if device.type == "meta" else device.type, dtype=torch.bfloat16)
    return nullcontext()


def set_up_torch(cfg: Computing) -> None:
    """Set what holds for the whole process, the backward pass included: CPU threads (0: torch's default) and TF32.

    `precision=fp32` keeps GPUs from rounding float32 to the 10 bits of TF32's mantissa, as torch lets convolutions do.
    """
    import torch

    if cfg.threads > 0:
        torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.allow_tf32 = cfg.precision != "fp32"
    if cfg.precision == "fp32":
        torch.backends.cuda.matmul.allow_tf32 = False


PLANNED = 32


@contextmanager
def convolving(pictures: int, device: "torch.device") -> Iterator[None]:
    """Compute convolutions of an input size that so many pictures have; without cuDNN on a GPU where they are few.

    cuDNN plans each convolution anew for each size: for the 50 of an EfficientNet-Lite0 that took 1.5 s a size on an H100 that
    nine programs shared, and what follows takes 5 ms a picture; without cuDNN 21 ms and no plan. So a plan pays from some tens
    of pictures on. Results differ in rounding.
    """
    import torch

    usual = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = usual and (device.type != "cuda" or pictures >= PLANNED)
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = usual


BACKEND = "inductor"


def compile_in_place(module: "nn.Module", device: "torch.device", *, sizes_vary: bool) -> None:
    """Have `module` compiled at its first call (minutes on a CPU), in place; keys of its state stay as they are.

    Args:
        module: what to compile; it must be on `device`.
        device: where it will run.
        sizes_vary: inputs have many sizes (whole pictures): one code for all of them. Otherwise each input size gets code
            of its own, which is faster and right where there are few (views, crops).

    Raises:
        UserError: on a CPU without a C++ compiler, which torch.compile needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"compile=true needs a C++ compiler, but there is no {compiler}; install one or set compile=false")
    module.compile(backend=BACKEND, dynamic=sizes_vary)


GIBIBYTE = 2**30
# Linux counts ru_maxrss in KiB.
_RSS_UNIT = 1024


def peak_memory(device: "torch.device") -> float:
    """Return the peak of this process: allocated on the GPU, or resident on the CPU."""
    return (peak_gpu(device) or 0.0) if device.type == "cuda" else peak_resident()


def peak_resident(*, workers: bool = False) -> float:
    """Return the peak resident memory of this process, or with `workers` of its largest ended worker where that is more."""
    processes = [resource.RUSAGE_SELF, *([resource.RUSAGE_CHILDREN] if workers else [])]
    return max(resource.getrusage(which).ru_maxrss for which in processes) * _RSS_UNIT / GIBIBYTE


def peak_gpu(device: "torch.device | None" = None) -> float | None:
    """Return the peak allocated on a GPU (None: the current one); None while no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak: float = torch.cuda.max_memory_allocated(device) / GIBIBYTE
    return peak

"""Peak memory of this process, in GiB; programs without a network do not load torch for this."""

import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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

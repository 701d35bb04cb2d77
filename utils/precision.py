"""Numeric precision, memory layout and threads, chosen by device."""

from contextlib import AbstractContextManager, nullcontext

import torch

# Of networks that are only evaluated, on any device; for those that train see models/pointwise.py.
INFERENCE_FORMAT = torch.channels_last


def autocast_for(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the forward pass's context: auto is bf16 autocast on CUDA and float32 on the CPU."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def set_threads(threads: int) -> None:
    """Limit this process to `threads` CPU threads; 0 leaves torch's default."""
    if threads > 0:
        torch.set_num_threads(threads)

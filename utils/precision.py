"""Numeric precision, memory layout and threads, chosen by device."""

from contextlib import AbstractContextManager, nullcontext

import torch

# Of networks that are only evaluated: faster on CPUs too, and the crash below is one of gradients.
INFERENCE_FORMAT = torch.channels_last


def autocast_for(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the forward pass's context: auto is bf16 autocast on CUDA and float32 on the CPU."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def memory_format_for(device: torch.device) -> torch.memory_format:
    """Return channels_last on CUDA; contiguous on the CPU, where channels_last training crashed in torch 2.15."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def set_threads(threads: int) -> None:
    """Limit this process to `threads` CPU threads; 0 leaves torch's default."""
    if threads > 0:
        torch.set_num_threads(threads)

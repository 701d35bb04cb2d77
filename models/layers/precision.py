"""Where lower precision must not reach."""

from contextlib import AbstractContextManager

import torch


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Return the context of what is computed in float32 under autocast too; "meta" tensors follow the CPU's."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)

"""torch.compile for networks, with a clear word where no compiler is."""

import os
import shutil

import torch
from torch import nn

from utils.errors import UserError

BACKEND = "inductor"


def compile_in_place(module: nn.Module, device: torch.device, *, sizes_vary: bool) -> None:
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

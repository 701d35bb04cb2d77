"""One process or many: the same program alone, on several GPUs or on several machines, through `torchrun`.

    python -m utils.runtime.processes --standalone --nproc_per_node 2 -m scripts.train --config configs/l2g_voc.yaml

is torchrun, which by itself would end with a traceback and code 1 also where training was stopped and has saved.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError, run_program
from utils.files import lock_folder, set_aside, visible
from utils.runtime.device import Computing, set_up_torch
from utils.runtime.parallel import leave_with_parent

Item = TypeVar("Item")
# Set by torchrun for the processes it starts.
TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Dist:
    """Place of this process: `rank` in [0, world), `local_rank` on its machine and the device it computes on."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def setup(cfg: Computing) -> Iterator[Dist]:
    """Join the process group `torchrun` describes in the environment (gloo on CPU, NCCL on CUDA) and leave it at the end.

    Args:
        cfg: device is auto, cpu, cuda or cuda:<n> (several processes: each takes the GPU of its local rank); for threads and
            precision see `set_up_torch`.

    Raises:
        UserError: when a CUDA device is asked for and there is none, or fewer than processes.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    set_up_torch(cfg)
    place = _device(cfg.device, local_rank, world)
    if TORCHRUN in os.environ:
        leave_with_parent()
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Dist(rank, world, local_rank, place)
    finally:
        if world > 1:
            dist.destroy_process_group()


def shard(items: Sequence[Item], rank: int, world: int) -> list[Item]:
    """Return every world-th item from `rank` on: disjoint over the ranks, together everything."""
    return list(items[rank::world])


def distribute(module: nn.Module, place: Dist, *, trains_norm: bool) -> nn.Module:
    """Wrap `module` for gradients averaged over all processes; alone, it is returned as it is.

    Args:
        module: on the device of `place`.
        place: this process.
        trains_norm: BatchNorm is trained, so its statistics span all GPUs.
    """
    if place.world == 1:
        return module
    on_gpu = place.device.type == "cuda"
    if trains_norm and on_gpu:
        try:  # torch's own conversion loses the activations inside timm's layers
            from timm.layers import convert_sync_batchnorm as convert
        except ImportError:
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
        module = convert(module)
    return DistributedDataParallel(module, device_ids=[place.local_rank] if on_gpu else None)


def same_buffers(module: nn.Module, place: Dist) -> nn.Module:
    """Return what `distribute` wrapped, after giving all processes the main one's buffers (BatchNorm's statistics)."""
    if place.world == 1:
        return module
    inner: nn.Module = module.module if isinstance(module, DistributedDataParallel) else module
    for buffer in inner.buffers():
        dist.broadcast(buffer, 0)
    return inner


def barrier(world: int) -> None:
    """Wait for all processes (nothing to wait for when alone)."""
    if world > 1:
        dist.barrier()


def sum_over_ranks(values: torch.Tensor, world: int) -> torch.Tensor:
    """Return the sum of `values` over all processes (the tensor itself when alone)."""
    if world > 1:
        dist.all_reduce(values)
    return values


def _device(device: str, local_rank: int, world: int) -> torch.device:
    count = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")  # refused as all others are
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device is '{device}', expected auto, cpu, cuda or cuda:<n>")
    if place.type == "cpu":
        return place
    if world > 1:
        place = torch.device("cuda", local_rank)
    if (place.index or 0) >= count:
        raise UserError(f"device {place} asked for, but {count} CUDA devices are visible; set GPUS or device=cpu")
    return torch.device("cuda", place.index or 0)


class StopRequest:
    """Set by a signal; `signum` is 0 while nobody asked."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """Return the shell's code for a program ended by that signal (130 for Ctrl-C, 143 for SIGTERM)."""
        return 128 + self.signum


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM in a `StopRequest`; handlers are restored at the end and after the first signal.

    Under torchrun that may come twice, from the terminal or job manager and passed on, so there only at the end.
    """
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        if TORCHRUN not in os.environ:
            restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()


class StopVote:
    """Whether any process was asked to stop, told to all of them at the same step; every process must ask at each.

    With several processes it costs a message, so that it is found out once in about `SECONDS` (torchrun kills 30 s after it
    passed on a signal), and at least every `MOST_STEPS` steps, in case they become slower.
    """

    SECONDS, MOST_STEPS = 2.0, 10

    def __init__(self, stop: StopRequest, place: Dist) -> None:
        self._stop, self._place = stop, place
        self._steps, self._every, self._since = 0, 1, time.monotonic()

    def __call__(self) -> bool:
        if self._place.world == 1:
            return bool(self._stop)
        self._steps += 1
        if self._steps < self._every:
            return False
        took = (time.monotonic() - self._since) / self._steps
        values = torch.tensor([float(bool(self._stop)), took], device=self._place.device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)  # of the time, too: all must ask at the same step again
        asked, slowest = values.tolist()
        self._steps, self._every, self._since = 0, _steps_between(slowest), time.monotonic()
        return bool(asked)


def _steps_between(seconds: float) -> int:
    """Return after how many steps of so many seconds to ask again."""
    return int(min(max(StopVote.SECONDS / max(seconds, 1e-9), 1), StopVote.MOST_STEPS))


@contextlib.contextmanager
def training_session(
    cfg: Computing, folder: Path, *, replaced: Sequence[Path] = (), inputs: Sequence[str | Path] = ()
) -> Iterator[tuple[Dist, StopRequest]]:
    """Join the processes, own `folder` (the main process does, for all) and collect signals while the block runs.

    Args:
        cfg: see `setup`.
        folder: where checkpoints are written.
        replaced: folders that are set aside first where `folder` holds something, see `utils.files.set_aside`.
        inputs: what must not be set aside with them.

    Raises:
        UserError: for a device that is not there, or a folder in use.
    """
    with setup(cfg) as place:
        if place.is_main and replaced and visible(folder):
            with lock_folder(folder):
                print(f"the earlier training is now in {', '.join(map(str, set_aside(replaced, inputs)))}")
        lock = lock_folder(folder) if place.is_main else contextlib.nullcontext()
        with lock, stop_on_signals() as stop:
            yield place, stop


def launch(argv: list[str]) -> None:
    """Run `torchrun` with these arguments; it ends with the code its processes would have alone, and without a traceback."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(argv)
    except SignalException as error:  # the processes have saved and left
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:  # they have told why
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run_program(launch)

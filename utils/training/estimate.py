"""What a training asks of a GPU, told without one: the trainer's own steps on tensors that have sizes but no values.

Each tensor's memory is followed from its birth to its last use, through forward and backward pass and the optimiser's step.
Not in it: the CUDA context, workspaces of cuDNN, what the allocator rounds up. Time is arithmetic on published rates of cards.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import Dataset

from utils.data.lists import read_id_list
from utils.runtime.device import GIBIBYTE
from utils.runtime.log import format_seconds
from utils.runtime.processes import Dist, StopRequest
from utils.training.plan import Span
from utils.training.sizes import Ledger, as_on_cuda, bytes_of
from utils.training.state import TrainState
from utils.training.trainer import Course, Trainable, Trainer

FLAG = "--estimate"
S = TypeVar("S")  # settings
CPU = torch.device("cpu")
UNKNOWN = 1000
SHARE = 0.4  # of the peak rate, which large convolutions may reach


class Card(NamedTuple):
    """Memory in GiB; peak rates without sparsity in TFLOP/s."""

    memory: int
    fp32: float
    bf16: float


# NVIDIA: GA102 whitepaper (3090), A100 and H100 SXM data sheets; bf16 on tensor cores with float32 accumulation.
CARDS = {"RTX 3090": Card(24, 35.6, 71.0), "A100": Card(80, 19.5, 312.0), "H100": Card(80, 67.0, 989.0)}


@dataclass
class Memory:
    """Bytes of a step: the peak, and what lasts: weights, gradients, optimiser's state, batch, activations for backward."""

    peak: int
    weights: int
    gradients: int
    optimizer: int
    batch: int
    activations: int


@dataclass
class Estimate:
    """What a training asks for.

    Attributes:
        parameters: of all networks.
        images: of a step's mini-batch on one GPU.
        steps: mini-batches of the whole run.
        memory: of its most demanding phase.
        step_flops: of that phase's mini-batch, on one GPU.
        flops: of the whole run, on one GPU.
        precision: fp32 or bf16.
        note: what had to be assumed.
    """

    parameters: int
    images: int
    steps: int
    memory: Memory
    step_flops: int
    flops: int
    precision: str
    note: str

    def seconds(self, card: Card) -> float:
        """Return what the whole run takes on a card at `SHARE` of its peak rate."""
        return self.flops / (SHARE * 1e12 * getattr(card, self.precision))

    def __str__(self) -> str:
        """Return a page of it."""
        lasting = ", ".join(f"{e.name} {_gib(getattr(self.memory, e.name))}" for e in fields(Memory)[1:])
        rows = [
            f"  {name:9} {card.memory} GiB  {getattr(card, self.precision):5} TFLOP/s  {format_seconds(self.seconds(card)):>9}"
            for name, card in CARDS.items()
        ]
        return "\n".join([
            *([self.note] if self.note else []),
            f"{self.parameters / 1e6:.1f} million parameters; {self.images} images a mini-batch on one GPU, {self.precision}",
            f"memory of a step: {_gib(self.memory.peak)} GiB at its peak; of it {lasting}; the rest for a moment",
            f"operations: {self.step_flops / 1e12:.2f} TFLOP a mini-batch, {self.flops / 1e15:.3g} PFLOP all {self.steps} "
            "(convolutions and matrix products, forward and backward)",
            f"the whole run at {SHARE:.0%} of a card's published peak rate, if nothing else holds it up (h:mm:ss):",
            *rows,
            "arithmetic on sizes and published rates, not a measurement; CUDA's own memory (about 0.5 GiB) comes on top",
        ])  # fmt: skip


def _gib(size: float) -> str:
    return f"{size / GIBIBYTE:.1f}"


class Unread(Dataset[dict[str, Any]]):
    """A data set that is never read: the images of a list, or of `UNKNOWN` where there is no list yet."""

    def __init__(self, path: str | Path = "") -> None:
        known = Path(path).is_file()
        self.labels: dict[str, tuple[int, ...]] = dict.fromkeys(read_id_list(path) if known else map(str, range(UNKNOWN)), ())
        self.note = "" if known or not path else f"{path} is not there: counted for {UNKNOWN} images"

    def __len__(self) -> int:
        return len(self.labels)


def estimate(
    module: nn.Module, begin: Callable[[], tuple[Trainable, Course, TrainState]], blank_batch: Callable[[int], dict[str, Any]]
) -> Estimate:
    """Run the last step of every phase of a training, with sizes only.

    Args:
        module: holds all networks, on the CPU; its tensors lose their values.
        begin: builds of it what `Trainer` takes, as at the beginning of a run.
        blank_batch: number of images -> a mini-batch.

    Several processes (WORLD_SIZE) share a mini-batch as in training.
    """
    place, world = Dist(rank=0, world=1, local_rank=0, device=CPU), int(os.environ.get("WORLD_SIZE", "1"))
    fake, ledger = FakeTensorMode(allow_non_fake_inputs=True), Ledger()
    for each in module.modules():
        holders: list[dict[str, Any]] = [each._parameters, each._buffers]
        for held in holders:
            held.update({name: fake.from_tensor(tensor) for name, tensor in held.items() if tensor is not None})
    with fake, ledger:
        ledger.hold([*module.parameters(), *module.buffers()])
        trainable, course, state = begin()
    course.precision = "fp32" if course.precision == "fp32" else "bf16"
    plan = course.plan
    images = -(-min(plan.batch_size, plan.images) // world)
    host = blank_batch(images)
    with fake, ledger, as_on_cuda():
        batch = {k: fake.from_tensor(v) if isinstance(v, Tensor) and k != "boxes" else v for k, v in host.items()}
        ledger.hold(leaf for leaf in batch.values() if isinstance(leaf, Tensor))
        trainer = Trainer(trainable, course, state, place, StopRequest(), logging.getLogger("estimate"))
        found = [_phase(trainer, ledger, span, batch) for span in plan.spans]
    flops = sum(each * (span.stop - span.start) for (_, each), span in zip(found, plan.spans, strict=True))
    memory, step_flops = max(found, key=lambda phase: phase[0].peak)
    note = getattr(course.dataset, "note", "")
    parameters = {id(p): p.numel() for network in state.networks.values() for p in network.parameters()}
    return Estimate(sum(parameters.values()), images, plan.stop - plan.start, memory, step_flops, flops, course.precision, note)


def train_or_tell(
    argv: list[str], read: Callable[[list[str]], S], run: Callable[[S], int], estimated: Callable[[S], Estimate]
) -> None:
    """Do what the command line of a training asks for: train, or print the estimate, once where several processes start."""
    cfg = read([each for each in argv if each != FLAG])
    if FLAG not in argv:
        if code := run(cfg):
            sys.exit(code)
    elif os.environ.get("RANK", "0") == "0":
        print(estimated(cfg))


def _phase(trainer: Trainer, ledger: Ledger, span: Span, batch: dict[str, Any]) -> tuple[Memory, int]:
    """Return what the last step of a phase takes, and the operations of a mini-batch of it."""
    plan, state = trainer.course.plan, trainer.state
    state.position = span.start
    trainer.enter_phase()
    had = bytes_of(state.optimizer.state)
    weights = ledger.alive - had - bytes_of(batch)
    first, behind = plan.window(span.stop - 1)
    # Of the mini-batches of a step the second one is the first that meets gradients; all further ones are like it.
    batches = min(behind - first, 2)
    state.position = behind - batches
    kept, flops, ledger.peak = 0, ledger.flops, ledger.alive

    def keep(*_: Any) -> None:
        nonlocal kept
        kept = ledger.alive - before

    hook = trainer.module.register_forward_hook(keep)
    for _ in range(batches):
        before = ledger.alive
        seen = {**batch, "share": 1.0, "step": plan.step(state.position)[0]}
        output = trainer.backward(seen, window=behind - first, steps=state.position + 1 == behind)
        state.position += 1
    hook.remove()
    flops = (ledger.flops - flops) // batches
    gradients = bytes_of([p.grad for network in state.networks.values() for p in network.parameters()])
    peak = ledger.peak
    trainer.step(output["loss"], [])
    optimizer = bytes_of(state.optimizer.state)
    # The first step met no optimiser's state yet, later ones do.
    peak = max(peak + optimizer - had, ledger.peak)
    return Memory(peak, weights, gradients, optimizer, bytes_of(batch), kept), flops

"""The training loop shared by every network of the first stage: one epoch of batches, from any position in it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from configs.schema import Config
from utils.data.paste import collate_views
from utils.data.samplers import EpochBatchSampler, step_seed
from utils.errors import UserError
from utils.runtime.device import peak_memory
from utils.runtime.processes import Dist, sum_over_ranks
from utils.training.state import Position


@dataclass
class RunningMeans:
    """Means of logged scalars since the last reading, kept on the device until they are read."""

    place: Dist
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    batches: int = 0
    images: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, losses: Mapping[str, torch.Tensor], share: float, images: int) -> None:
        """Add one batch: `share` is this process's part of the global batch, `images` the global count."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.float() * share
        self.batches += 1
        self.images += images

    def read(self) -> dict[str, float]:
        """Return means over batches and processes, images/s and peak memory (GiB), and start anew."""
        names = sorted(self.sums)
        stacked = sum_over_ranks(torch.stack([self.sums[n] for n in names]), self.place.world) / self.batches
        seconds = time.monotonic() - self.since
        values = dict(zip(names, stacked.tolist(), strict=True))
        values["images_per_second"] = self.images / seconds
        values["memory_gib"] = peak_memory(self.place.device)
        self.sums, self.batches, self.images, self.since = {}, 0, 0, time.monotonic()
        return values


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors to `device`, images channels-last on CUDA; `boxes` stay on the CPU, where slicing reads them."""
    moved = {}
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or name == "boxes":
            moved[name] = value
        elif device.type == "cuda" and value.dim() == 4:
            moved[name] = value.to(device, non_blocking=True, memory_format=torch.channels_last)
        else:
            moved[name] = value.to(device, non_blocking=True)
    return moved


def train_batches(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[int, dict[str, Any]]],
    *,
    place: Dist,
    autocast: Callable[[], Any],
    seed: int,
    epoch: int,
    batches_in_epoch: int,
    iter_size: int,
    global_size: Callable[[int], int],
    before_step: Callable[[int], None],
    after_batch: Callable[[int, Mapping[str, Any], Mapping[str, Any], bool], bool],
    clip_grad: float = 0.0,
) -> bool:
    """Train on the given batches of one epoch.

    The gradient of a step is the mean over the images of its (global) batch whatever the number of processes, then the
    mean over the `iter_size` batches of a window; the last window of an epoch may be shorter. (The published loop left the
    transfer loss undivided and leaked leftover gradients into the next epoch.)

    Args:
        model: `forward(batch) -> {"loss", "losses", "views"}`; wrapped in DistributedDataParallel with several processes.
        batches: (index in the epoch, batch) pairs; `batch["id"]` names the images.
        place: this process.
        autocast: returns the context of the forward pass.
        seed: of dropout; drawn anew per (seed, epoch, batch, rank), so a resumed run repeats an uninterrupted one.
        batches_in_epoch: length of the whole epoch.
        global_size: index -> images of that batch over all processes.
        before_step: called with the batch index before each optimiser step (sets the learning rate).
        after_batch: called with (index, batch, output, stepped); returns True to stop the epoch here.
        clip_grad: gradient-norm limit, 0 for none.

    Returns:
        True when `after_batch` asked to stop.

    Raises:
        UserError: before a step whose loss or gradient is not finite, naming the images.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    window_ids: list[str] = []
    for index, batch in batches:
        torch.manual_seed(step_seed(seed, epoch, index, place.rank))
        window = min(iter_size, batches_in_epoch - index // iter_size * iter_size)
        last_of_window = (index + 1) % iter_size == 0 or index + 1 == batches_in_epoch
        share = _share(len(batch["id"]), index, global_size(index), place)
        batch = to_device(batch, place.device)
        waits = isinstance(model, DistributedDataParallel) and not last_of_window
        with cast(DistributedDataParallel, model).no_sync() if waits else nullcontext():
            with autocast():
                output = model(batch)
            # DDP averages over processes; each contributes its share of the batch's mean.
            (output["loss"] * (share * place.world / window)).backward()
        window_ids += batch["id"]
        if last_of_window:
            _check_finite(model, output["loss"], window_ids, clip_grad)
            before_step(index)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            window_ids = []
        if after_batch(index, batch, {**output, "share": share}, last_of_window):
            return True
    return False


def _share(local: int, index: int, total: int, place: Dist) -> float:
    """Return this process's part of the batch; a process without images runs on a borrowed one that weighs nothing."""
    mine = len(range(place.rank, total, place.world))
    if mine not in (0, local):
        raise RuntimeError(f"batch {index}: {local} images on rank {place.rank}, expected {mine}")
    return mine / total


def _check_finite(model: nn.Module, loss: torch.Tensor, ids: list[str], limit: float) -> None:
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit > 0:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    # One reading for both: each reading waits for the device.
    loss_value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
    if not (abs(loss_value) < float("inf") and norm_value < float("inf")):
        raise UserError(
            f"loss {loss_value:g} with gradient norm {norm_value:g} on images {', '.join(ids)}: training stops before the "
            "step; lower train.lr, add train.warmup_iters or check these images (the last checkpoint is intact)"
        )


T = TypeVar("T")


class Waiting(Generic[T]):
    """Iterate over `items` and add up the time spent waiting for the next one.

    Attributes:
        seconds: waited so far, since the last `share`.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self.seconds = 0.0
        self._since = time.monotonic()

    def __iter__(self) -> Iterator[T]:
        self._since = time.monotonic()
        iterator = iter(self._items)
        while True:
            asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - asked
            yield item

    def share(self) -> float:
        """Return which part of the time since the last call, or the start, was waiting, in [0, 1], and start anew."""
        now = time.monotonic()
        waited, passed = self.seconds, now - self._since
        self.seconds, self._since = 0.0, now
        return waited / passed if passed else 0.0


def build_epoch_loader(
    dataset: Dataset[dict[str, Any]], length: int, cfg: Config, place: Dist, at: Position
) -> tuple[EpochBatchSampler, DataLoader[dict[str, Any]]]:
    """Return this process's loader from position `at` to the end of its epoch, and the sampler behind it.

    Args:
        dataset: addressed by (epoch, index).
        length: its length.
        cfg: seed, `train.batch_size`, `train.shuffle` and `data.workers`.
        place: this process; it gets its share of each batch.
        at: epoch and first batch.
    """
    sampler = EpochBatchSampler(
        length,
        cfg.train.batch_size,
        shuffle=cfg.train.shuffle,
        seed=cfg.seed,
        rank=place.rank,
        world=place.world,
        epoch=at.epoch,
        start_batch=at.batch,
    )
    pinned = place.device.type == "cuda"
    workers = cfg.data.workers
    return sampler, DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_views, num_workers=workers, pin_memory=pinned)

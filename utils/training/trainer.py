"""The training loop: any method, and the segmentation stage. `Trainer.run` is all of it; what it calls follows below.

The gradient of a step is the mean over the images of its (global) batch whatever the number of processes, then the mean over
the mini-batches of its window, whose number a batch holds as "window". (The published loops leaked leftover gradients into the
next epoch.)
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, default_collate

from utils.data.samplers import step_seed
from utils.errors import UserError
from utils.runtime.device import autocast_for
from utils.runtime.log import progress
from utils.runtime.parallel import start_loader_worker
from utils.runtime.processes import Dist, StopRequest, StopVote, barrier, distribute, same_buffers
from utils.training.journal import Picture, draw_panel, draw_picture, open_journal
from utils.training.meters import RunningMeans, Waiting
from utils.training.optim import Schedule, set_learning_rate
from utils.training.plan import Plan, PlannedBatches
from utils.training.state import BEGUN, BEST, LAST, TrainState, previous_path, save_optimizer, save_published
from utils.training.validation import Validation, drop_oldest, snapshot_name, validate
from utils.training.weights import save_weights

# Images of the panel that a validation draws.
PANEL_ROWS = 8


class Trainable(Protocol):
    """What can be trained: a `models.method.Method`, or the segmentation network with its losses."""

    def begin(self, phase: Any, /) -> None: ...

    def step_module(self, phase: Any, /) -> nn.Module: ...

    def pictures(self, batch: Any, views: Mapping[str, Tensor], /) -> Mapping[str, Any]: ...


@dataclass
class Course:
    """Everything about a training that is not a network.

    Attributes:
        plan, schedule: which batch comes when, and the rate of each step.
        dataset: addressed by (epoch, index).
        collate: makes a batch of samples; None: torch's.
        workers: loader processes.
        seed: of dropout; drawn anew per (seed, epoch, batch, rank), so that a resumed run repeats an uninterrupted one.
        precision: see `autocast_for`.
        trains_norm: BatchNorm is trained, so its statistics span all GPUs.
        loss_is_part: the loss is this process's part of a sum over all of them, not the mean over its own images.
        model_dir, log_dir: where checkpoints and TensorBoard files go.
        log_every, images_every, save_every: counts of `Plan.counter`; 0: never (checkpoints: at the ends of epochs only).
        keep_epochs: 0-based epochs that are kept as epoch_<n>.pth.
        published_name: the last and the kept epochs also as <published_name>_epoch_<n>.pth, in the published layout.
        export_every: counts at which the weights alone are kept as checkpoint_<n>.pth; 0: never.
        clip_grad: gradient-norm limit, 0 for none.
        average: losses logged are means over the latest so many steps; 0: since the last reading.
        mean, std: that images were normalised with, for pictures.
        published_log: TensorBoard tags of the published segmentation stage, and its habit to log the rate of the next step.
        validation: what is validated at the ends of epochs; the best weights so far stay in best.pth.
    """

    plan: Plan
    schedule: Schedule
    dataset: Dataset[dict[str, Any]]
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None
    workers: int
    seed: int
    precision: str
    trains_norm: bool
    model_dir: Path
    log_dir: Path
    log_every: int
    images_every: int
    save_every: int
    mean: Sequence[float]
    std: Sequence[float]
    loss_is_part: bool = False
    keep_epochs: Sequence[int] = ()
    published_name: str = ""
    export_every: int = 0
    clip_grad: float = 0.0
    average: int = 0
    published_log: bool = False
    validation: Validation | None = None


class Trainer:
    """One training, from its present position to the end.

    Args:
        trainable: what is trained; its networks are those of `state`.
        course: by which rules.
        state: networks, optimiser and position.
        place: this process.
        stop: set by signals.
        log: for lines.
    """

    def __init__(
        self, trainable: Trainable, course: Course, state: TrainState, place: Dist, stop: StopRequest, log: logging.Logger
    ) -> None:
        self.trainable, self.course, self.state = trainable, course, state
        self.place, self.stop, self.log = place, stop, log
        self.asked_to_stop = StopVote(stop, place)
        self.means = RunningMeans(place, course.average * course.plan.iter_size, state.latest)
        self.module: nn.Module = nn.Identity()
        self.rate = 0.0

    def run(self) -> int:
        """Train; return 0 when finished, or the exit code of the signal that stopped it.

        Raises:
            UserError: before a step whose loss or gradient is not finite, naming the images.
        """
        plan, state = self.course.plan, self.state
        counter, ids = plan.counter(state.position), list[str]()
        logs = open_journal(
            self.course.log_dir, self.log, is_main=self.place.is_main, counter=counter, published=self.course.published_log
        )
        with logs as self.journal:
            for batch in self._batches():
                self.enter_phase()
                first, behind = plan.window(state.position)
                output = self.backward(batch, window=behind - first, steps=state.position + 1 == behind)
                state.position, ids = state.position + 1, ids + batch["id"]
                if state.position < behind:
                    continue
                self.step(output["loss"], ids)
                ids = []
                self._report(first, batch, output)
                stopped = self.asked_to_stop() and state.position < plan.stop
                self._keep(first, now=stopped)
                if stopped:
                    self.log.info("stopped by a signal at %s; continue with train.resume=auto", plan.describe(state.position))
                    return self.stop.exit_code
        return 0

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Yield this process's share of the remaining mini-batches, with its weight in them as "share".

        "step" is the 0-based optimiser step of the phase that they belong to.
        """
        course, plan, place = self.course, self.course.plan, self.place
        sampler = PlannedBatches(plan, self.state.position, rank=place.rank, world=place.world)
        pinned = place.device.type == "cuda"
        loader = DataLoader(
            course.dataset,
            batch_sampler=sampler,
            collate_fn=course.collate,
            num_workers=course.workers,
            pin_memory=pinned,
            worker_init_fn=start_loader_worker,
        )
        self.loaded = Waiting(loader)
        begun = self.state.position - plan.start
        shown = progress(self.loaded, begun + len(sampler), "batches", initial=begun, show=place.is_main)
        for position, batch in enumerate(shown, self.state.position):
            share = _share(len(batch["id"]), position, plan.images_in(position), place)
            yield {**to_device(batch, place.device), "share": share, "step": plan.step(position)[0]}

    def enter_phase(self) -> None:
        """Build what a step of the present phase runs, where a phase or the run begins."""
        span, state = self.course.plan.span(self.state.position), self.state
        if isinstance(self.module, nn.Identity) or state.position == span.start:
            if state.position == span.start > self.course.plan.start:
                self.log.info("%s begins", span.phase.name)
                self.trainable.begin(span.phase)
                if span.phase.fresh_optimizer:
                    state.optimizer.state.clear()
            module = self.trainable.step_module(span.phase)
            self.module = distribute(module, self.place, trains_norm=self.course.trains_norm).train()
            state.optimizer.zero_grad(set_to_none=True)

    def backward(self, batch: dict[str, Any], *, window: int, steps: bool) -> dict[str, Any]:
        """Add the gradient of one mini-batch; several processes exchange it with the last of a window only."""
        course, place = self.course, self.place
        epoch, index = divmod(self.state.position, course.plan.per_epoch)
        torch.manual_seed(step_seed(course.seed, epoch, index, place.rank))
        waits = isinstance(self.module, DistributedDataParallel) and not steps
        with cast(DistributedDataParallel, self.module).no_sync() if waits else nullcontext():
            with autocast_for(course.precision, place.device):
                output: dict[str, Any] = self.module({**batch, "window": window})
            # DDP averages over processes; each contributes its share of the batch's mean.
            share = 1.0 if course.loss_is_part else batch["share"]
            (output["loss"] * (share * place.world / window)).backward()
        self.means.add(output["losses"], share, course.plan.images_in(self.state.position))
        return output

    def step(self, loss: Tensor, ids: Sequence[str]) -> None:
        """Update the weights, unless something is not finite."""
        optimizer, position = self.state.optimizer, self.state.position - 1
        _check_finite(self.module, loss, ids, self.course.clip_grad)
        self.rate = self._rate(position)
        set_learning_rate(optimizer, self.rate)
        optimizer.step()
        self.state.average(self.course.plan.step(position)[0])
        optimizer.zero_grad(set_to_none=True)

    def _rate(self, position: int, later: int = 0) -> float:
        """Return the base rate of the step a mini-batch belongs to, or of the one `later` steps after it."""
        plan = self.course.plan
        step, steps = plan.step(position)
        lr = plan.span(position).phase.lr
        return self.course.schedule.rate(lr, epoch=position // plan.per_epoch, step=step + later, steps=steps)

    def _report(self, first: int, batch: dict[str, Any], output: Mapping[str, Any]) -> None:
        course, plan, position = self.course, self.course.plan, self.state.position
        counter, logs_next = plan.counter(position), course.published_log
        if plan.due(course.log_every, first, position) or plan.ends_epoch(position):
            values = {**self.means.read(), "loader_wait": self.loaded.share()}
            rate = self._rate(position - 1, later=1) if logs_next else self.rate
            factors = [group["lr_scale"] for group in self.state.optimizer.param_groups]
            self.journal.scalars(counter, plan.describe(position), values, rate, factors)
        if plan.due(course.images_every, first, position):
            self.journal.pictures(counter, lambda: self._pictures(batch, output["views"]))

    def _pictures(self, batch: dict[str, Any], views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shown: Mapping[str, Picture] = self.trainable.pictures(batch, views)
        labels = batch["labels"][0]
        return {name: draw_picture(p, labels, self.course.mean, self.course.std) for name, p in shown.items()}

    def _keep(self, first: int, *, now: bool) -> None:
        """Validate, write checkpoints and export weights where they are due (`now`: a checkpoint in any case)."""
        course, plan, state = self.course, self.course.plan, self.state
        ended, counter = plan.ends_epoch(state.position), plan.counter(state.position)
        saves = now or ended or plan.due(course.save_every, first, state.position)
        if saves:
            state.latest = self.means.latest()
        exports = plan.due(course.export_every, first, state.position)
        if saves or exports:
            _check_weights(state.networks, plan.describe(state.position))
            if self.place.is_main and not (course.model_dir / LAST).exists():
                course.model_dir.mkdir(parents=True, exist_ok=True)
                (course.model_dir / BEGUN).touch()
        if ended and not plan.counts_steps and course.validation is not None:
            with state.averaged():
                self._validate(course.validation, state.position // plan.per_epoch)
        if not saves and not exports:
            return
        if self.place.is_main:
            if exports:
                with state.averaged():
                    self._export(f"checkpoint_{counter}.pth")
            if ended and not plan.counts_steps:
                self._keep_epoch(state.position // plan.per_epoch - 1)
            if saves:  # at last: a training that is killed before goes on from the one before, and misses none of these
                state.save(course.model_dir / LAST)
                (course.model_dir / BEGUN).unlink(missing_ok=True)
        barrier(self.place.world)

    def _validate(self, validation: Validation, epoch: int) -> None:
        """Validate after `epoch` passes where it is due, and keep the weights where they are the best so far."""
        if not validation.due(epoch):
            return
        # The processes' own: BatchNorm's statistics are the main process's, as in the next step and in checkpoints.
        module = same_buffers(self.module, self.place)
        selects = ""
        for name, dataset in validation.datasets.items():
            found = validate(
                module,
                dataset,
                epoch,
                validation=validation,
                place=self.place,
                autocast=lambda: autocast_for(self.course.precision, self.place.device),
                to_device=lambda batch: to_device(batch, self.place.device),
                what=f"validate {name}",
            )
            score = None if selects else validation.score(found.means())
            self.journal.validation(name, epoch, found.losses, found.named(validation.class_names), score)
            if score is not None:
                self._select(validation, epoch, score)
            selects = selects or name
        self.journal.rates("train", epoch, [group["lr"] for group in self.state.optimizer.param_groups])
        self._panel(module, epoch)
        self.module.train()

    def _select(self, validation: Validation, epoch: int, score: float) -> None:
        state, folder = self.state, self.course.model_dir
        if not validation.selects(epoch, score, state.best):
            return
        state.best = score
        if not self.place.is_main:
            return
        self._export(BEST)
        if validation.snapshots:
            self._export(snapshot_name("model", epoch, score))
            save_optimizer(state.optimizer, folder / snapshot_name("opt", epoch, score))
            drop_oldest(folder, validation.snapshots)

    def _panel(self, module: nn.Module, epoch: int) -> None:
        """Draw the first training images, seen as in epoch 0, as the weights see them now."""
        if not self.place.is_main:
            return
        course = self.course
        samples = [course.dataset[(0, index)] for index in range(min(PANEL_ROWS, course.plan.images))]
        batch = to_device((course.collate or default_collate)(samples), self.place.device)
        with torch.no_grad(), autocast_for(course.precision, self.place.device):
            views = module.eval()(batch)["views"]
        pictures: Mapping[str, Picture] = self.trainable.pictures(batch, views)
        if pictures and course.validation is not None:
            names = course.validation.class_names
            self.journal.panel("train", epoch, draw_panel(pictures, batch["labels"], names, course.mean, course.std))

    def _keep_epoch(self, epoch: int) -> None:
        course, state = self.course, self.state
        kept = epoch in course.keep_epochs
        if kept:
            path = course.model_dir / f"epoch_{epoch}.pth"
            state.save(path)
            previous_path(path).unlink(missing_ok=True)
        if course.published_name and (kept or state.position == course.plan.stop):
            path = course.model_dir / f"{course.published_name}_epoch_{epoch}.pth"
            counter = course.plan.counter(state.position)
            save_published(path, state.published_weights(), state.optimizer.state_dict(), epoch=epoch, counter=counter)

    def _export(self, name: str) -> None:
        save_weights(self.state.published_weights()["state_dict"], self.course.model_dir / name)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors to `device`, images channels-last on CUDA; `boxes` stay on the CPU, where slicing reads them."""
    moved = {}
    for name, value in batch.items():
        if not isinstance(value, Tensor) or name == "boxes":
            moved[name] = value
        elif device.type == "cuda" and value.dim() == 4:
            moved[name] = value.to(device, non_blocking=True, memory_format=torch.channels_last)
        else:
            moved[name] = value.to(device, non_blocking=True)
    return moved


def _share(local: int, position: int, total: int, place: Dist) -> float:
    """Return this process's part of the batch; a process without images runs on a borrowed one that weighs nothing."""
    mine = len(range(place.rank, total, place.world))
    if mine not in (0, local):
        raise RuntimeError(f"batch {position}: {local} images on rank {place.rank}, expected {mine}")
    return mine / total


def _check_finite(model: nn.Module, loss: Tensor, ids: Sequence[str], limit: float) -> None:
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit > 0:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    # One reading for both: each reading waits for the device.
    loss_value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
    if not (abs(loss_value) < float("inf") and norm_value < float("inf")):
        raise UserError(
            f"loss {loss_value:g} with gradient norm {norm_value:g} on images {', '.join(ids)}: training stops before the "
            "step; lower the learning rate, add warm-up steps or check these images (earlier checkpoints are intact)"
        )


# No trained weight comes near; a step at a far too high rate goes beyond, and the next loss may still be finite.
LARGEST_WEIGHT = 1e6


def _check_weights(networks: Mapping[str, nn.Module], where: str) -> None:
    """Refuse to write weights, or statistics of normalisations, that a diverged training has left."""
    tensors = [p.detach() for network in networks.values() for p in network.parameters()]
    statistics = [b for network in networks.values() for b in network.buffers() if b.is_floating_point()]
    norms = [nn.utils.get_total_norm(values, float("inf")).float() for values in (tensors, statistics)]
    weight, statistic = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
    if not (weight < LARGEST_WEIGHT and statistic < float("inf")):
        raise UserError(
            f"the training has diverged at {where}: the largest weight is {weight:g}, the largest running statistic "
            f"{statistic:g}; nothing was written, earlier checkpoints are intact; lower the learning rate or add warm-up steps"
        )

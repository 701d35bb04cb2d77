"""Train the segmentation network on pseudo labels.

    python -m deeplab train --config-path configs/voc12_resnet_dplv2.yaml [key=value ...]
    torchrun --nproc_per_node=2 -m deeplab train --config-path configs/voc12_resnet_dplv2.yaml ...

Writes <exp.output_dir>/models/<exp.id>/<model>/<split.train>/checkpoint_<iteration>.pth and checkpoint_final.pth (weights
alone, published names) and last.pth (continue with train.resume=auto); TensorBoard, log.txt and config.yaml in
<exp.output_dir>/logs/<exp.id>. SIGTERM and Ctrl-C save and leave.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from configs.deeplab_schema import IGNORE_LABEL, DeepLabConfig
from deeplab.dataset import CropDataset
from deeplab.losses import LossModule
from deeplab.network import build_deeplab, build_segmentation_optimizer, segmentation_rate
from deeplab.outputs import FINAL, experiment, logs_dir, models_dir
from deeplab.weights import load_initial
from models.layers.cpu_convs import training_format
from utils.config import flat_settings, parse_schema_args, save_config
from utils.data.lists import training_items
from utils.data.samplers import EndlessBatches, step_seed
from utils.errors import UserError
from utils.files import remove_leftovers
from utils.runtime.cards import SEGMENTATION_TRAINING, StageCard, set_name, write_card
from utils.runtime.device import autocast_for, compile_in_place, peak_memory
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, StopRequest, agree_to_stop, barrier, distribute, sum_over_ranks, training_session
from utils.training.journal import LossHistory, write_pictures, write_scalars
from utils.training.optim import set_learning_rate
from utils.training.state import check_same_run, find_resume, load_checkpoint, save_checkpoint
from utils.training.trainer import Waiting, to_device
from utils.training.weights import save_weights


def main(argv: list[str]) -> None:
    """Parse the command line and train; leaves with the signal's exit code when stopped by one."""
    code = run(parse_schema_args(argv, __doc__ or "", DeepLabConfig))
    if code:
        sys.exit(code)


def run(cfg: DeepLabConfig) -> int:
    """Train as configured; return 0 when finished, or the exit code of the signal that stopped training.

    Raises:
        UserError: for wrong input, an output folder in use, or a loss that is not finite.
    """
    with training_session(cfg.device, cfg.threads, models_dir(cfg)) as (place, stop):
        return Training(cfg, place, stop).run()


class Training:
    """One run: network, optimiser, position and outputs."""

    def __init__(self, cfg: DeepLabConfig, place: Dist, stop: StopRequest) -> None:
        self.cfg, self.place, self.stop = cfg, place, stop
        self.folder = models_dir(cfg)
        self.log = get_logger(logs_dir(cfg), rank=place.rank)
        items, label_folder = training_items(cfg.dataset, fully_supervised=cfg.fully_supervised)
        self.dataset = CropDataset(items, cfg.dataset, cfg.image, cfg.seed)
        self.log.info("%d training images; labels from %s", len(items), label_folder)
        torch.manual_seed(cfg.seed)  # every process draws the same initial head
        self.network = build_deeplab(cfg)
        path = find_resume(cfg.train.resume, self.folder)
        if path is None and cfg.model.init_model:
            self.log.info(load_initial(self.network, cfg.model.init_model, cfg.model.allow_missing))
        self.network.to(place.device).to(memory_format=training_format(self.network, place.device))
        if cfg.compile:
            compile_in_place(self.network.base, place.device, sizes_vary=False)  # one code per scale; losses stay uncompiled
        self.optimizer = build_segmentation_optimizer(self.network, cfg.solver, untrained_fov=cfg.train.untrained_fov)
        self.iteration = 0  # iterations done
        self.history = LossHistory(cfg.solver.average_loss, place)
        if path is not None:
            self._resume(path)
            self.log.info("resumed from %s after iteration %d", path, self.iteration)
        self.module = self._module()
        if place.is_main:
            remove_leftovers(self.folder)
            save_config(cfg, logs_dir(cfg) / "config.yaml")

    def run(self) -> int:
        """Train from the present position to the end; return the exit code."""
        cfg, solver, started = self.cfg, self.cfg.solver, time.monotonic()
        torch.backends.cudnn.benchmark = True  # all inputs have one size
        self.module.train()
        self.loaded, self.logged_at = Waiting(self._batches()), (time.monotonic(), self.iteration)
        batches = iter(self.loaded)
        numbers = range(self.iteration + 1, solver.iter_max + 1)
        with self._writer() as writer:
            steps = progress(numbers, solver.iter_max, "iterations", initial=self.iteration, show=self.place.is_main)
            for number in steps:
                last = self._iterate(number, batches)
                if number % solver.iter_tb == 0 or number == solver.iter_max:
                    self._log(writer, number)
                if writer is not None and cfg.train.images_every and number % cfg.train.images_every == 0:
                    write_pictures(writer, number, last["images"], last["labels"], last["first"], cfg.image)
                self._save_when_due(number)
                if agree_to_stop(self.stop, self.place, number) and number < solver.iter_max:
                    self._save()
                    self.log.info("stopped by a signal after iteration %d; continue with train.resume=auto", number)
                    return self.stop.exit_code
        self._export(FINAL)
        if self.place.is_main:
            card = StageCard(
                key="deeplab_train",
                title="DeepLab training",
                program="deeplab train",
                order=SEGMENTATION_TRAINING,
                output=str(self.folder),
                images=solver.batch_size.train * solver.iter_size * len(numbers),
                seconds=time.monotonic() - started,
                settings=flat_settings(cfg),
                facts=[("network", cfg.model.name), ("iterations", str(solver.iter_max)), ("device", str(self.place.device))],
                split=set_name(cfg.dataset.split.train),
            )
            write_card(cfg.exp.output_dir, card, group=experiment(cfg))
        self.log.info("finished; weights in %s", self.folder / FINAL)
        return 0

    def _module(self) -> torch.nn.Module:
        world = self.place.world
        module = LossModule(
            self.network,
            balanced=self.cfg.train.loss == "balanced",
            reduce_counts=lambda counts: sum_over_ranks(counts, world),
        )
        return distribute(module, self.place, trains_norm=not self.cfg.model.freeze_bn)

    def _resume(self, path: Path) -> None:
        solver, state = self.cfg.solver, load_checkpoint(path)
        check_same_run(
            path,
            state,
            {
                "seed": ("seed", self.cfg.seed),
                "batch_size": ("solver.batch_size.train", solver.batch_size.train),
                "iter_size": ("solver.iter_size", solver.iter_size),
            },
        )
        try:
            self.network.load_state_dict(state["state_dict"])
        except RuntimeError as error:
            raise UserError(f"{path} does not fit model.name={self.cfg.model.name}: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
        self.history = LossHistory(solver.average_loss, self.place, state["losses"])

    def _batches(self) -> Iterator[tuple[bool, int, dict[str, Any]]]:
        """Yield (does it count, its position, mini-batch) from the present position on."""
        cfg, solver = self.cfg, self.cfg.solver
        sampler = EndlessBatches(
            len(self.dataset),
            solver.batch_size.train,
            seed=cfg.seed,
            start=self.iteration * solver.iter_size,
            stop=solver.iter_max * solver.iter_size,
            rank=self.place.rank,
            world=self.place.world,
        )
        workers = cfg.dataloader.num_workers
        loader = DataLoader(
            self.dataset, batch_sampler=sampler, num_workers=workers, pin_memory=self.place.device.type == "cuda"
        )
        for position, batch in enumerate(loader, sampler.start):
            yield sampler.weighs(position), position, batch

    def _iterate(self, number: int, batches: Iterator[tuple[bool, int, dict[str, Any]]]) -> dict[str, Any]:
        """Make one optimiser step of `iter_size` mini-batches; return the last of them with its logits."""
        cfg, size = self.cfg, self.cfg.solver.iter_size
        set_learning_rate(self.optimizer, segmentation_rate(cfg.solver, number, cfg.train.warmup_iters))
        self.optimizer.zero_grad(set_to_none=True)
        ids: list[str] = []
        total = torch.zeros((), device=self.place.device)
        for index, (weighs, position, batch) in enumerate(islice(batches, size)):
            torch.manual_seed(step_seed(cfg.seed, 0, position, self.place.rank))  # dropout
            batch = to_device(batch, self.place.device)
            labels = batch["labels"] if weighs else torch.full_like(batch["labels"], IGNORE_LABEL)
            waits = isinstance(self.module, DistributedDataParallel) and index + 1 < size
            with self.module.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                with autocast_for(cfg.precision, self.place.device):
                    output = self.module(batch["images"], labels)
                loss = output["losses"].sum() / size
                # DDP averages gradients over processes, while each process's loss is its part of a sum.
                (loss * self.place.world).backward()
            total, ids = total + loss.detach(), ids + batch["id"]
        self.optimizer.step()
        self.iteration = number
        self.history.add(total, ids)
        return {**batch, "first": output["first"]}

    @contextlib.contextmanager
    def _writer(self) -> Iterator[SummaryWriter | None]:
        """Open TensorBoard on the main process; a resumed run hides what lies beyond its position."""
        if not self.place.is_main:
            yield None
            return
        with SummaryWriter(str(logs_dir(self.cfg)), purge_step=self.iteration + 1 if self.iteration else None) as writer:
            yield writer

    def _log(self, writer: SummaryWriter | None, number: int) -> None:
        loss = self.history.read()
        if writer is None:
            return
        # As published: the rate logged is the one the next iteration will use.
        rate = segmentation_rate(self.cfg.solver, number + 1, self.cfg.train.warmup_iters)
        speed = self._speed(number)
        write_scalars(writer, number, loss, [rate * group["lr_scale"] for group in self.optimizer.param_groups], speed)
        parts = " ".join(f"{name} {value:.4g}" for name, value in speed.items())
        self.log.info("iteration %d/%d lr %.3g loss %.4f %s", number, self.cfg.solver.iter_max, rate, loss, parts)

    def _speed(self, number: int) -> dict[str, float]:
        """Return images/s of all processes since the last call, peak memory (GiB), and the part of the time waited."""
        now, (then, before) = time.monotonic(), self.logged_at
        self.logged_at = (now, number)
        images = (number - before) * self.cfg.solver.batch_size.train * self.cfg.solver.iter_size
        return {
            "images_per_second": images / (now - then),
            "memory_gib": peak_memory(self.place.device),
            "loader_wait": self.loaded.share(),
        }

    def _save_when_due(self, number: int) -> None:
        if number % self.cfg.train.save_every == 0 or number == self.cfg.solver.iter_max:
            self._save()
        if number % self.cfg.solver.iter_save == 0:
            self._export(f"checkpoint_{number}.pth")

    def _save(self) -> None:
        """Write last.pth; a loss that is not finite stops here, before it replaces good weights."""
        self.history.read()
        if self.place.is_main:
            state = {
                "iteration": self.iteration,
                "next_batch": self.iteration * self.cfg.solver.iter_size,
                "losses": list(self.history.latest),
                "seed": self.cfg.seed,
                "batch_size": self.cfg.solver.batch_size.train,
                "iter_size": self.cfg.solver.iter_size,
                "state_dict": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            save_checkpoint(state, self.folder / "last.pth")
        barrier(self.place.world)

    def _export(self, name: str) -> None:
        """Write the weights alone under the published names (those of the wrapper, `base.`...)."""
        self.history.read()
        if self.place.is_main:
            save_weights(self.network.state_dict(), self.folder / name)
        barrier(self.place.world)

"""Train the local-to-global classifier (or, with train.classify_epochs equal to train.epochs, a plain CAM classifier).

    python -m scripts.train_l2g --config configs/l2g_voc.yaml [key=value ...]                    # one GPU, or the CPU
    torchrun --nproc_per_node=2 -m scripts.train_l2g --config configs/l2g_voc.yaml               # two GPUs
    torchrun --nnodes=2 --node_rank=$R --master_addr=$A --nproc_per_node=8 -m scripts.train_l2g ...  # two machines

Writes <run_dir>/model/last.pth (continue with train.resume=auto), final.pth (weights of the global network alone, published
key names), config.yaml, log.txt and TensorBoard files in <run_dir>/tb. SIGTERM and Ctrl-C save and leave.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from configs.schema import Config
from models.cam_net import CamNetwork
from models.l2g import L2G, Classification
from scripts.build import build_l2g_options, build_network, load_initial_weights
from utils.checkpoints import find_resume, load_checkpoint, save_checkpoint
from utils.config import parse_args, save_config
from utils.datasets import EpochBatchSampler, L2GDataset
from utils.distributed import Dist, any_rank, barrier, setup
from utils.errors import UserError, run_program
from utils.files import atomic_path, lock_folder, remove_leftovers, write_text_atomic
from utils.optimizers import build_optimizer, learning_rate, set_learning_rate
from utils.paste_transform import collate_views
from utils.precision import autocast_for, memory_format_for, set_threads
from utils.run_log import get_logger, progress
from utils.signals import StopRequest, stop_on_signals
from utils.train_loop import RunningMeans, peak_memory, train_batches
from utils.train_pictures import training_pictures

# With several processes, agreeing on a stop costs a message: ask every so many batches.
STOP_CHECK_EVERY = 10


def main(argv: list[str]) -> None:
    """Parse the command line and train; leaves with the signal's exit code when stopped by one."""
    code = run(parse_args(argv, __doc__ or ""))
    if code:
        sys.exit(code)


def run(cfg: Config) -> int:
    """Train as configured; return 0 when finished, or the exit code of the signal that stopped training.

    Raises:
        UserError: for wrong input, an output folder in use, or a loss that is not finite.
    """
    set_threads(cfg.threads)
    run_dir = Path(cfg.run_dir)
    with setup(cfg.device) as place:
        lock = lock_folder(run_dir / "model") if place.is_main else contextlib.nullcontext()
        with lock, stop_on_signals() as stop:
            return Training(cfg, place, stop).run()


class Training:
    """One run: its networks, optimiser, position and outputs."""

    def __init__(self, cfg: Config, place: Dist, stop: StopRequest) -> None:
        self.cfg, self.place, self.stop = cfg, place, stop
        self.model_dir = Path(cfg.run_dir) / "model"
        self.log = get_logger(Path(cfg.run_dir), rank=place.rank)
        self.dataset = L2GDataset(cfg.data, cfg.l2g, cfg.seed)
        torch.manual_seed(cfg.seed)  # every process draws the same initial weights
        self.global_net, self.local_net = self._network("global"), self._network(cfg.train.init_local)
        self.optimizer = build_optimizer([self.global_net.parameter_groups(), self.local_net.parameter_groups()], cfg.train)
        self.epoch, self.batch, self.counter = cfg.train.first_epoch, 0, 0
        self.seconds_before, self.started = 0.0, time.monotonic()
        self._resume()
        if place.is_main:
            remove_leftovers(self.model_dir)
            save_config(cfg, Path(cfg.run_dir) / "config.yaml")

    def run(self) -> int:
        """Train from the present position to the end; return the exit code."""
        cfg = self.cfg
        self.log.info(
            "%d images, %d classes, %s on %s, %d process(es)",
            len(self.dataset), cfg.data.num_classes, cfg.model.backbone, self.place.device, self.place.world,
        )  # fmt: skip
        with self._writer() as self.writer:
            while self.epoch < cfg.train.epochs:
                if self.epoch == cfg.train.classify_epochs and self.batch == 0 and self.epoch > cfg.train.first_epoch:
                    self._start_transfer()
                if self._train_epoch():
                    self.save()
                    self.log.info("stopped by a signal in epoch %d; continue with train.resume=auto", self.epoch)
                    return self.stop.exit_code
                self.epoch, self.batch = self.epoch + 1, 0
                self.save(keep=self.epoch - 1 in cfg.train.keep_epochs)
        self._export()
        return 0

    def _network(self, source: str) -> CamNetwork:
        network = build_network(self.cfg)
        load_initial_weights(network, self.cfg, source)
        return network.to(self.place.device).to(memory_format=memory_format_for(self.place.device))

    def _resume(self) -> None:
        path = find_resume(self.cfg.train.resume, self.model_dir)
        if path is None:
            return
        state = load_checkpoint(path)
        if state["seed"] != self.cfg.seed or state["batch_size"] != self.cfg.train.batch_size:
            raise UserError(
                f"{path} was trained with seed={state['seed']} train.batch_size={state['batch_size']}, not "
                f"seed={self.cfg.seed} train.batch_size={self.cfg.train.batch_size}; use the same values or start anew"
            )
        for network, key in ((self.global_net, "state_dict"), (self.local_net, "local_dict")):
            try:
                network.load_state_dict(network.from_published(state[key]))
            except RuntimeError as error:
                raise UserError(f"{path} does not fit model.backbone={self.cfg.model.backbone}: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch, self.counter = state["next_epoch"], state["next_batch"], state["global_counter"]
        self.seconds_before = state["seconds"]
        self.log.info("resumed from %s at epoch %d, batch %d", path, self.epoch, self.batch)

    def _start_transfer(self) -> None:
        """Begin the second phase: both networks continue from the trained classifier, the optimiser from nothing."""
        self.local_net.load_state_dict(self.global_net.state_dict())
        self.optimizer.state.clear()
        self.log.info("epoch %d: classification done, local-to-global transfer begins", self.epoch)

    def _module(self) -> nn.Module:
        classifying = self.epoch < self.cfg.train.classify_epochs
        module: nn.Module
        if classifying:
            module = Classification(self.global_net)
        else:
            module = L2G(self.global_net, self.local_net, build_l2g_options(self.cfg))
        if self.place.world == 1:
            return module
        if not self.cfg.model.freeze_bn and self.place.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        ids = [self.place.local_rank] if self.place.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def _loader(self) -> tuple[EpochBatchSampler, DataLoader[dict[str, Any]]]:
        cfg = self.cfg
        sampler = EpochBatchSampler(
            len(self.dataset),
            cfg.train.batch_size,
            shuffle=cfg.train.shuffle,
            seed=cfg.seed,
            rank=self.place.rank,
            world=self.place.world,
            epoch=self.epoch,
            start_batch=self.batch,
        )
        return sampler, DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=collate_views,
            num_workers=cfg.data.workers,
            pin_memory=self.place.device.type == "cuda",
        )

    def _train_epoch(self) -> bool:
        """Train the rest of the present epoch; return True when a signal asked to stop."""
        cfg, train = self.cfg, self.cfg.train
        sampler, loader = self._loader()
        total = -(-len(self.dataset) // train.batch_size)
        phase_start = max(train.first_epoch, 0 if self.epoch < train.classify_epochs else train.classify_epochs)
        phase_epochs = (train.classify_epochs if self.epoch < train.classify_epochs else train.epochs) - phase_start
        steps = -(-total // train.iter_size)
        means = RunningMeans(self.place)
        rate = 0.0

        def before_step(index: int) -> None:
            nonlocal rate
            step = (self.epoch - phase_start) * steps + index // train.iter_size
            rate = learning_rate(train, epoch=self.epoch, step=step, steps=phase_epochs * steps)
            set_learning_rate(self.optimizer, rate)

        def after_batch(index: int, batch: Any, output: Any, stepped: bool) -> bool:
            self.batch, self.counter = index + 1, self.counter + 1
            means.add(output["losses"], output["share"], sampler.global_batch_size(index))
            if self.counter % train.log_every == 0 or self.batch == total:
                self._log_scalars(means.read(), rate, total)
            if train.images_every and self.counter % train.images_every == 0:
                self._log_pictures(batch, output["views"])
            if stepped and train.save_every and self.counter % train.save_every == 0 and self.batch < total:
                self.save()
            asked = self.place.world == 1 or self.counter % STOP_CHECK_EVERY == 0
            return stepped and asked and any_rank(bool(self.stop), self.place)

        numbered = enumerate(
            progress(loader, total, f"epoch {self.epoch}", initial=self.batch, show=self.place.is_main), self.batch
        )
        return train_batches(
            self._module(),
            self.optimizer,
            numbered,
            place=self.place,
            autocast=lambda: autocast_for(cfg.precision, self.place.device),
            seed=cfg.seed,
            epoch=self.epoch,
            batches_in_epoch=total,
            iter_size=train.iter_size,
            global_size=sampler.global_batch_size,
            before_step=before_step,
            after_batch=after_batch,
            clip_grad=train.clip_grad,
        )

    @contextlib.contextmanager
    def _writer(self) -> Iterator[SummaryWriter | None]:
        """Open TensorBoard on the main process; a resumed run hides what lies beyond its position."""
        if not self.place.is_main:
            yield None
            return
        with SummaryWriter(str(Path(self.cfg.run_dir) / "tb"), purge_step=self.counter or None) as writer:
            yield writer

    def _log_scalars(self, values: dict[str, float], rate: float, total: int) -> None:
        if self.writer is None:
            return
        for name, value in {**values, "lr": rate}.items():
            self.writer.add_scalar(f"train/{name}", value, self.counter)
        parts = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.log.info("epoch %d batch %d/%d lr %.3g %s", self.epoch, self.batch, total, rate, parts)

    def _log_pictures(self, batch: Any, views: Any) -> None:
        if self.writer is None:
            return
        pictures = training_pictures(batch, views, self.cfg.data.mean, self.cfg.data.std)
        for name, picture in pictures.items():
            self.writer.add_image(f"train/{name}", picture, self.counter)

    def save(self, keep: bool = False) -> None:
        """Write model/last.pth (and, with `keep`, model/epoch_<n>.pth): networks, optimiser, position.

        No generator state is stored: every draw follows from seed, epoch, batch and rank.
        """
        if self.place.is_main:
            state = {
                "epoch": self.epoch - 1,
                "next_epoch": self.epoch,
                "next_batch": self.batch,
                "global_counter": self.counter,
                "seconds": self._seconds(),
                "seed": self.cfg.seed,
                "batch_size": self.cfg.train.batch_size,
                "backbone": self.cfg.model.backbone,
                "state_dict": self.global_net.to_published(self.global_net.state_dict()),
                "local_dict": self.local_net.to_published(self.local_net.state_dict()),
                "optimizer": self.optimizer.state_dict(),
            }
            save_checkpoint(state, self.model_dir / "last.pth")
            if keep:
                save_checkpoint(state, self.model_dir / f"epoch_{self.epoch - 1}.pth")
        barrier(self.place.world)

    def _seconds(self) -> float:
        """Return the time spent on this training, earlier parts of a resumed run included."""
        return self.seconds_before + time.monotonic() - self.started

    def _export(self) -> None:
        """Write the weights of the global network alone, under the published key names, and what training took."""
        if not self.place.is_main:
            return
        path = self.model_dir / "final.pth"
        weights = {k: v.cpu().contiguous() for k, v in self.global_net.to_published(self.global_net.state_dict()).items()}
        with atomic_path(path) as temporary:
            torch.save(weights, temporary)
        summary = {
            "seconds": round(self._seconds(), 1),
            "epochs": self.cfg.train.epochs,
            "images": len(self.dataset),
            "processes": self.place.world,
            "device": str(self.place.device),
            "peak_memory_gib": round(peak_memory(self.place.device), 3),
        }
        write_text_atomic(self.model_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
        self.log.info("finished; weights of the global network in %s", path)


if __name__ == "__main__":
    run_program(main)

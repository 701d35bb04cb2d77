"""Train the local-to-global classifier (or, with train.classify_epochs equal to train.epochs, a plain CAM classifier).

    python -m scripts.train --config configs/l2g_voc.yaml [key=value ...]                    # one GPU, or the CPU
    torchrun --nproc_per_node=2 -m scripts.train --config configs/l2g_voc.yaml               # two GPUs
    torchrun --nnodes=2 --node_rank=$R --master_addr=$A --nproc_per_node=8 -m scripts.train ...  # two machines

Writes <run_dir>/model/last.pth (continue with train.resume=auto), final.pth (weights of the global network alone, published
key names), config.yaml, log.txt and TensorBoard files in <run_dir>/tb. SIGTERM and Ctrl-C save and leave.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from scripts.build import build_step, build_trainable
from scripts.check_data import check_cheaply
from utils.config import flat_settings, parse_args, save_config
from utils.data.samples import L2GDataset
from utils.errors import run_program
from utils.files import remove_leftovers
from utils.runtime.cards import TRAINING, StageCard, write_card
from utils.runtime.device import autocast_for
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, StopRequest, agree_to_stop, barrier, training_session
from utils.training.journal import open_journal, training_pictures, write_outputs
from utils.training.optim import build_optimizer, phase_of, set_learning_rate
from utils.training.state import Identity, TrainState
from utils.training.trainer import RunningMeans, Waiting, build_epoch_loader, train_batches


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
    with training_session(cfg.device, cfg.threads, Path(cfg.run_dir) / "model") as (place, stop):
        return Training(cfg, place, stop).run()


class Training:
    """One run: its networks, optimiser, position and outputs."""

    def __init__(self, cfg: Config, place: Dist, stop: StopRequest) -> None:
        self.cfg, self.place, self.stop = cfg, place, stop
        self.run_dir, self.model_dir = Path(cfg.run_dir), Path(cfg.run_dir) / "model"
        self.log = get_logger(self.run_dir, rank=place.rank)
        self.dataset = L2GDataset(cfg.data, cfg.l2g, cfg.seed)
        for warning in check_cheaply(cfg, self.dataset.labels) if place.is_main else []:
            self.log.warning("%s", warning)
        torch.manual_seed(cfg.seed)  # every process draws the same initial weights
        self.global_net, self.local_net = build_trainable(cfg, place), build_trainable(cfg, place, cfg.train.init_local)
        self.optimizer = build_optimizer([self.global_net.parameter_groups(), self.local_net.parameter_groups()], cfg.train)
        networks = {"state_dict": self.global_net, "local_dict": self.local_net}
        self.state = TrainState(networks, self.optimizer, Identity(cfg.seed, cfg.train.batch_size, cfg.model.backbone))
        self.state.position.epoch = cfg.train.first_epoch
        if (path := self.state.resume(cfg.train.resume, self.model_dir)) is not None:
            self.log.info("resumed from %s at epoch %d, batch %d", path, self.state.position.epoch, self.state.position.batch)
        if place.is_main:
            remove_leftovers(self.model_dir)
            save_config(cfg, self.run_dir / "config.yaml")

    def run(self) -> int:
        """Train from the present position to the end; return the exit code."""
        cfg, place, at = self.cfg, self.place, self.state.position
        facts = (len(self.dataset), cfg.data.num_classes, cfg.model.backbone, place.device, place.world)
        self.log.info("%d images, %d classes, %s on %s, %d process(es)", *facts)
        with open_journal(self.run_dir, self.log, is_main=place.is_main, counter=at.counter) as self.journal:
            while at.epoch < cfg.train.epochs:
                if at.epoch == cfg.train.classify_epochs and at.batch == 0 and at.epoch > cfg.train.first_epoch:
                    self.state.start_transfer()
                    self.log.info("epoch %d: classification done, local-to-global transfer begins", at.epoch)
                if self._train_epoch():
                    self._save()
                    self.log.info("stopped by a signal in epoch %d; continue with train.resume=auto", at.epoch)
                    return self.stop.exit_code
                at.epoch, at.batch = at.epoch + 1, 0
                kept, last = at.epoch - 1 in cfg.train.keep_epochs, at.epoch == cfg.train.epochs
                self._save(keep=kept, published_name=cfg.train.published_name if kept or last else "")
        if place.is_main:
            final = write_outputs(self.model_dir, self.global_net, at, len(self.dataset), place)
            plain = f" ({cfg.train.classify_epochs} plain)" if cfg.train.classify_epochs else ""
            shown = [("network", cfg.model.backbone), ("epochs", f"{at.epoch}{plain}"), ("device", str(place.device))]
            card = StageCard("training", "Training", "scripts.train", TRAINING, str(final), len(self.dataset), at.seconds)
            card.settings, card.facts = flat_settings(cfg), shown
            write_card(self.run_dir, card)
            self.log.info("finished; weights of the global network in %s", final)
        return 0

    def _train_epoch(self) -> bool:
        """Train the rest of the present epoch; return True when a signal asked to stop."""
        cfg, train, place, at = self.cfg, self.cfg.train, self.place, self.state.position
        sampler, loader = build_epoch_loader(self.dataset, len(self.dataset), cfg, place, at)
        total = -(-len(self.dataset) // train.batch_size)
        phase, means, rate = phase_of(train, at.epoch), RunningMeans(place), 0.0
        loaded = Waiting(loader)

        def before_step(index: int) -> None:
            nonlocal rate
            rate = phase.rate(train, epoch=at.epoch, batch=index, batches=total)
            set_learning_rate(self.optimizer, rate)

        def after_batch(index: int, batch: Any, output: Any, stepped: bool) -> bool:
            at.batch, at.counter = index + 1, at.counter + 1
            means.add(output["losses"], output["share"], sampler.global_batch_size(index))
            if at.counter % train.log_every == 0 or at.batch == total:
                self.journal.scalars(at, {**means.read(), "loader_wait": loaded.share()}, rate, total)
            if train.images_every and at.counter % train.images_every == 0:
                self.journal.pictures(at, partial(training_pictures, batch, output["views"], cfg.data.mean, cfg.data.std))
            if stepped and train.save_every and at.counter % train.save_every == 0 and at.batch < total:
                self._save()
            return stepped and agree_to_stop(self.stop, place, at.counter)

        return train_batches(
            build_step(cfg, phase, self.global_net, self.local_net, place),
            self.optimizer,
            enumerate(progress(loaded, total, f"epoch {at.epoch}", initial=at.batch, show=place.is_main), at.batch),
            place=place,
            autocast=lambda: autocast_for(cfg.precision, place.device),
            seed=cfg.seed,
            epoch=at.epoch,
            batches_in_epoch=total,
            iter_size=train.iter_size,
            global_size=sampler.global_batch_size,
            before_step=before_step,
            after_batch=after_batch,
            clip_grad=train.clip_grad,
        )

    def _save(self, keep: bool = False, published_name: str = "") -> None:
        if self.place.is_main:
            self.state.save(self.model_dir, keep=keep, published_name=published_name)
        barrier(self.place.world)


if __name__ == "__main__":
    run_program(main)

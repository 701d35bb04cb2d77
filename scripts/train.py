"""Train a method: what `method` of the configuration names, by default L2G.

    python -m scripts.train --config configs/l2g_voc.yaml [key=value ...]                    # one GPU, or the CPU
    torchrun --nproc_per_node=2 -m scripts.train --config configs/l2g_voc.yaml               # two GPUs
    torchrun --nnodes=2 --node_rank=$R --master_addr=$A --nproc_per_node=8 -m scripts.train ...  # two machines
    python -m scripts.train --config configs/l2g_voc.yaml --estimate     # memory and time it would take, told without a GPU

Writes <run_dir>/model/last.pth (continue with train.resume=auto), final.pth (weights of the network CAMs are made with,
published key names), config.yaml, log.txt and TensorBoard files in <run_dir>/tb. SIGTERM and Ctrl-C save and leave.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from configs.paste_schema import PasteConfig
from configs.schema import Config, TrainConfig, ValidationConfig
from models.layers.lean import batch_norms
from models.method import Method, find_method
from scripts.build import build_method, parse_args
from utils.config import flat_settings, lasting_settings, save_config
from utils.data.classes import resolve_class_names
from utils.data.lists import holds_paths
from utils.data.paste import collate_views
from utils.data.samples import CornerViews, ViewDataset, blank_batch
from utils.errors import UserError, run_program
from utils.prepare.disk import check_cheaply
from utils.runtime.cards import TRAINING, StageCard, set_name, write_card
from utils.runtime.log import get_logger, progress
from utils.runtime.processes import Dist, training_session
from utils.runtime.provenance import fingerprint
from utils.training.estimate import CPU, Estimate, Unread, estimate, train_or_tell
from utils.training.journal import write_summary
from utils.training.optim import Schedule, build_optimizer
from utils.training.plan import Plan, Span, batches_of
from utils.training.state import TrainState, find_resume, refuse_used
from utils.training.trainer import Course, Trainer
from utils.training.validation import Validation
from utils.training.weights import save_weights

FINAL = "final.pth"


def main(argv: list[str]) -> None:
    """Parse the command line and train; leaves with the signal's exit code when stopped by one."""
    train_or_tell(argv, lambda words: parse_args(words, __doc__ or ""), run, estimated)


def run(cfg: Config) -> int:
    """Train; return 0 when finished, or the exit code of a signal. Raises UserError for wrong input or a loss that is NaN."""
    run_dir, model_dir = Path(cfg.run_dir), Path(cfg.run_dir) / "model"
    weights = [cfg.train.init_from, cfg.model.pretrained, *find_method(cfg.method).pretrained(cfg).values()]
    inputs = [cfg.data.root, cfg.data.train_list, *weights, cfg.settings.paste.bank]
    replaced = [run_dir] if cfg.train.overwrite else []
    with training_session(cfg, model_dir, replaced=replaced, inputs=inputs) as (place, stop):
        if not replaced:
            refuse_used(model_dir, cfg.train.resume, name="name", renamed=[run_dir])
        log = get_logger(run_dir, rank=place.rank)
        dataset = ViewDataset(cfg.data, cfg.settings, cfg.seed)
        torch.manual_seed(cfg.seed)  # every process draws the same initial weights
        method = build_method(cfg, place.device, initial=find_resume(cfg.train.resume, model_dir) is None)
        if place.is_main:
            parameters = sum(p.numel() for network in method.networks().values() for p in network.parameters())
            for warning in check_cheaply(cfg, dataset.labels, parameters):
                log.warning("%s", warning)
        course = build_course(cfg, method, dataset)
        state = build_state(cfg, method, dataset, course.plan)
        state.resume(cfg.train.resume, model_dir, course.plan, log)
        if place.is_main:
            save_config(cfg, run_dir / "config.yaml")
        facts = (cfg.method, len(dataset), cfg.data.num_classes, cfg.model.backbone, place.device, place.world)
        log.info("%s: %d images, %d classes, %s on %s, %d process(es)", *facts)
        code = Trainer(method, course, state, place, stop, log).run()
        if code == 0 and place.is_main:
            method.finish(_views_to_finish_with(cfg, place))
            _finish(cfg, state, len(dataset), place, log)
    return code


def estimated(cfg: Config) -> Estimate:
    """Return what training as configured asks of a GPU; neither data nor weights are read, the list only where it is there."""
    cfg = replace(cfg, compile=False, validation=ValidationConfig())
    listed, method = Unread(cfg.data.train_list), build_method(cfg, CPU, initial=False)

    def begin() -> tuple[Method, Course, TrainState]:
        course = build_course(cfg, method, listed)
        return method, course, build_state(cfg, method, listed, course.plan)

    return estimate(method, begin, partial(blank_batch, cfg.data, cfg.settings))


def build_course(cfg: Config, method: Method, dataset: ViewDataset | Unread) -> Course:
    """Return the course of a run: its phases over the data set's epochs, rates, logs and checkpoints."""
    train = cfg.train
    per_epoch = batches_of(len(dataset), train.batch_size, drop_last=train.drop_last)
    if per_epoch == 0:
        raise UserError(
            f"{cfg.data.train_list} has {len(dataset)} images, fewer than train.batch_size ({train.batch_size}), and "
            "train.drop_last leaves incomplete batches out; set a smaller batch or train.drop_last=false"
        )
    spans = [Span(phase, phase.start * per_epoch, phase.end * per_epoch) for phase in method.phases()]
    return Course(
        plan=Plan(len(dataset), train.batch_size, train.iter_size, train.shuffle, cfg.seed, spans, drop_last=train.drop_last),
        schedule=build_schedule(train),
        dataset=dataset,
        collate=collate_views,
        workers=cfg.data.workers,
        seed=cfg.seed,
        precision=cfg.precision,
        trains_norm=_trains_norm(method),
        model_dir=Path(cfg.run_dir) / "model",
        log_dir=Path(cfg.run_dir) / "tb",
        log_every=train.log_every,
        images_every=train.images_every,
        save_every=train.save_every,
        mean=cfg.data.mean,
        std=cfg.data.std,
        keep_epochs=train.keep_epochs,
        published_name=train.published_name,
        clip_grad=train.clip_grad,
        validation=build_validation(cfg, method),
    )


def _trains_norm(method: Method) -> bool:
    """Return whether some BatchNorm of the networks uses batch statistics in training."""
    return any(norm.training for network in method.networks().values() for norm in batch_norms(network.train()))


def build_validation(cfg: Config, method: Method) -> Validation | None:
    """Return what section `validation` asks for, None where it names no list."""
    wanted = cfg.validation
    if not wanted.image_list:
        return None
    corner: dict[str, Any] = {"resize": "none", "crop": "top_left", "flip": False} if wanted.views == "corner" else {}
    sample = replace(cfg.settings, paste=PasteConfig(), **corner)
    lists = {"val": replace(cfg.data, train_list=wanted.image_list)}
    if wanted.log_list:
        known = cfg.data.label_list if holds_paths(cfg.data.train_list) else cfg.data.train_list
        lists["train"] = replace(cfg.data, train_list=wanted.log_list, label_list=known)
    return Validation(
        {name: ViewDataset(data, sample, cfg.seed) for name, data in lists.items()},
        method.validation_score,
        resolve_class_names(cfg.data.class_names, cfg.data.num_classes),
        cfg.train.batch_size,
        cfg.data.workers,
        wanted.every,
        wanted.from_epoch,
        wanted.ties,
        wanted.views != "random",
        wanted.snapshots,
    )


def build_schedule(train: TrainConfig) -> Schedule:
    """Return the schedule section `train` describes."""
    return Schedule(
        train.schedule,
        power=train.poly_power,
        epochs=train.decay_epochs,
        factor=train.decay_factor,
        warmup=train.warmup_iters,
    )


def build_state(cfg: Config, method: Method, dataset: ViewDataset | Unread, plan: Plan) -> TrainState:
    """Return the state of a training at its beginning."""
    train = cfg.train
    optimizer = build_optimizer(
        method.parameter_groups(),
        kind=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        nesterov=train.nesterov,
    )
    identity, may_change = lasting_settings(cfg, ("data", "model", "train", "validation", cfg.section))
    # The list may lie elsewhere, but must be the same.
    identity["data.train_list"] = fingerprint([f"{image_id} {classes}" for image_id, classes in dataset.labels.items()])
    return TrainState(method.networks(), optimizer, identity, plan.start, may_change, train.average_weights)


def _views_to_finish_with(cfg: Config, place: Dist) -> Iterator[Tensor]:
    """Yield the pictures of data.infer_list in batches, see `Method.finish`; as published not the last, incomplete one."""
    dataset = CornerViews(cfg.data, cfg.settings.input_size)
    whole = len(dataset) >= cfg.train.batch_size
    loader = DataLoader(dataset, cfg.train.batch_size, num_workers=cfg.data.workers, drop_last=whole)
    for batch in progress(loader, len(loader), "finish"):
        yield batch.to(place.device)


def _finish(cfg: Config, state: TrainState, images: int, place: Dist, log: logging.Logger) -> None:
    """Write final.pth, summary.json and the stage card."""
    final = Path(cfg.run_dir) / "model" / FINAL
    with state.averaged():
        save_weights(state.published_weights()["state_dict"], final)
    summary = write_summary(
        final.with_name("summary.json"), seconds=state.seconds, epochs=cfg.train.epochs, images=images, place=place
    )
    facts = {"method": cfg.method, "network": cfg.model.backbone, "epochs": cfg.train.epochs, "device": summary["device"]}
    card = StageCard(
        key="training",
        title="Training",
        program="scripts.train",
        order=TRAINING,
        output=str(final.parent),
        images=images,
        seconds=summary["seconds"],
        settings=flat_settings(cfg),
        facts=[(name, str(value)) for name, value in facts.items()],
        split=set_name(cfg.data.train_list),
    )
    write_card(cfg.run_dir, card)
    log.info("finished; weights in %s", final)


if __name__ == "__main__":
    run_program(main)

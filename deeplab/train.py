"""Train the segmentation network on pseudo labels.

    python -m deeplab train --config-path configs/voc12_resnet_dplv2.yaml [key=value ...]
    torchrun --nproc_per_node=2 -m deeplab train --config-path configs/voc12_resnet_dplv2.yaml ...
    python -m deeplab train --config-path configs/voc12_resnet_dplv2.yaml --estimate     # memory and time, told without a GPU

Writes <exp.output_dir>/models/<exp.id>/<model>/<split.train>/checkpoint_<iteration>.pth and checkpoint_final.pth (weights
alone, published names) and last.pth (continue with train.resume=auto); TensorBoard, log.txt and config.yaml in
<exp.output_dir>/logs/<exp.id>. SIGTERM and Ctrl-C save and leave.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.deeplab_schema import PLAIN, DeepLabConfig, ImageConfig
from deeplab.cdl import ExpertLosses
from deeplab.dataset import CropDataset, blank_batch
from deeplab.losses import LossModule, resize_labels
from deeplab.network import BACKBONE, MultiScale, MultiScaleExperts, build_deeplab, segmentation_groups, trunk_name
from deeplab.outputs import FINAL, TITLES, experiment, logs_dir, models_dir
from deeplab.settings import parse_args
from deeplab.weights import RANDOM, load_initial, read_init, write_init
from models.layers.lean import training_format
from models.method import Picture
from utils.config import flat_settings, lasting_settings, save_config
from utils.data.images import MAX_GREY
from utils.data.items import Item, labelled_items, training_items
from utils.data.transforms import to_rgb
from utils.drawing.overlays import label_colours
from utils.runtime.cards import SEGMENTATION_TRAINING, StageCard, set_name, write_card
from utils.runtime.device import compile_in_place
from utils.runtime.log import get_logger
from utils.runtime.processes import Dist, sum_over_ranks, training_session
from utils.runtime.provenance import fingerprint
from utils.training.estimate import CPU, Estimate, Unread, estimate, train_or_tell
from utils.training.hub import HUB, HubWeights, hub_weights
from utils.training.optim import Schedule, build_optimizer
from utils.training.plan import Plan, Span
from utils.training.state import TrainState, find_resume, refuse_used
from utils.training.trainer import Course, Trainer
from utils.training.weights import save_weights


def main(argv: list[str]) -> None:
    """Parse the command line and train; leaves with the signal's exit code when stopped by one."""
    train_or_tell(argv, lambda words: parse_args(words, __doc__ or ""), run, estimated)


def run(cfg: DeepLabConfig) -> int:
    """Train; return 0 when finished, or the exit code of a signal. Raises UserError for wrong input or a loss that is NaN."""
    folder = models_dir(cfg)
    run_folders = [folder, logs_dir(cfg)]
    inputs = [cfg.dataset.root, cfg.dataset.train_list, cfg.model.init_model]
    replaced = run_folders if cfg.train.overwrite else []
    with training_session(cfg, folder, replaced=replaced, inputs=inputs) as (place, stop):
        if not replaced:
            refuse_used(folder, cfg.train.resume, name="exp.id", renamed=run_folders)
        log = get_logger(logs_dir(cfg), rank=place.rank)
        listed, label_folders = training_items(cfg.dataset, fully_supervised=cfg.fully_supervised)
        items = labelled_items(cfg.dataset, listed, fully_supervised=cfg.fully_supervised)
        dataset = CropDataset(items, cfg.dataset, cfg.image, cfg.seed, cfg.method)
        log.info("%d training images; labels from %s", len(items), ", ".join(map(str, label_folders)))
        if len(items) < len(listed):
            log.warning("%d of %d listed images are left out, as they have no labels", len(listed) - len(items), len(listed))
        torch.manual_seed(cfg.seed)  # every process draws the same initial head
        network = build_deeplab(cfg)
        init, resumed = RANDOM, find_resume(cfg.train.resume, folder)
        if resumed is not None:
            init = read_init(resumed)
        elif cfg.model.init_model:
            fetched = hub_weights(trunk_name(cfg.model)) if cfg.model.init_model == HUB else None
            init, told = load_initial(network, cfg.model.init_model, cfg.model.allow_missing, fetched)
            log.info(told)
            if fetched and (advice := _advice(cfg, fetched)):
                log.warning("%s", advice)
        network.to(place.device).to(memory_format=training_format(network, place.device))
        if cfg.compile:
            compile_in_place(network.base, place.device, sizes_vary=False)  # one code per scale; losses stay uncompiled
        state = build_state(cfg, network, items)
        course = build_course(cfg, dataset)
        state.resume(cfg.train.resume, folder, course.plan, log)
        if place.is_main:
            save_config(cfg, logs_dir(cfg) / "config.yaml")
            write_init(folder, init)
        torch.backends.cudnn.benchmark = True  # all inputs have one size
        code = Trainer(Segmentation(cfg, network, place), course, state, place, stop, log).run()
        if code == 0 and place.is_main:
            with state.averaged():
                save_weights(state.published_weights()["state_dict"], folder / FINAL)
            _write_card(cfg, state, len(items), init)
            log.info("finished; weights in %s", folder / FINAL)
    return code


def estimated(cfg: DeepLabConfig) -> Estimate:
    """Return what training as configured asks of a GPU; neither data nor weights are read."""

    network, alone = build_deeplab(cfg), Dist(rank=0, world=1, local_rank=0, device=CPU)

    def begin() -> tuple[Segmentation, Course, TrainState]:
        return Segmentation(cfg, network, alone), build_course(cfg, Unread()), build_state(cfg, network, [])

    return estimate(network, begin, partial(blank_batch, cfg))


class Segmentation:
    """The network with the losses of the configured method, and what to show of it.

    Args:
        cfg: configuration.
        network: of `build_deeplab`.
        place: this process.
    """

    def __init__(self, cfg: DeepLabConfig, network: MultiScale, place: Dist) -> None:
        self.image: ImageConfig = cfg.image
        if isinstance(network, MultiScaleExperts):
            self.losses: nn.Module = ExpertLosses(cfg, network, place)
        else:
            self.losses = LossModule(
                network,
                balanced=cfg.train.loss == "balanced",
                over_all=cfg.train.loss == "ce_all",
                reduce_counts=lambda counts: sum_over_ranks(counts, place.world),
            )

    def begin(self, phase: Any) -> None:
        """There is one phase only."""

    def step_module(self, phase: Any) -> nn.Module:
        """Return the losses, whatever the phase."""
        return self.losses

    def pictures(self, batch: Mapping[str, Any], views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the first image of a mini-batch, its labels and the label maps, or logits, of `views`."""
        size = batch["labels"].shape[1:]
        maps = {"label": batch["labels"][0]}
        for name, view in views.items():
            logits = F.interpolate(view, size=size, mode="bilinear", align_corners=False) if view.dim() == 4 else None
            maps[name] = resize_labels(view, size)[0] if logits is None else logits[0].argmax(0)
        return {
            "input": _rgb(to_rgb(batch["images"][0].float().cpu(), self.image)),
            **{name: _rgb(label_colours(labels.byte().cpu().numpy())) for name, labels in maps.items()},
        }


def _rgb(pixels: Any) -> Picture:
    """Return a picture of (H, W, 3) uint8 pixels."""
    return Picture("rgb", torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)


class OnePhase(NamedTuple):
    """The one phase of this stage."""

    lr: float
    name: str = "training"
    fresh_optimizer: bool = False
    continues: bool = False


def build_plan(cfg: DeepLabConfig, images: int) -> Plan:
    """Return which mini-batch comes when; steps run on across the ends of epochs, each of which has a new order (published)."""
    solver = cfg.solver
    span = Span(OnePhase(solver.lr), 0, solver.iter_max * solver.iter_size)
    return Plan(images, solver.batch_size.train, solver.iter_size, True, cfg.seed, [span], counts_steps=True)


def build_schedule(cfg: DeepLabConfig) -> Schedule:
    """Return base * (1 - done / T)^power, `done` a multiple of `lr_decay` (published)."""
    return Schedule("poly", power=cfg.solver.poly_power, hold=cfg.solver.lr_decay, to_zero=True, warmup=cfg.train.warmup_iters)


def build_course(cfg: DeepLabConfig, dataset: CropDataset | Unread) -> Course:
    """Return the course of a training on a data set."""
    solver, mean, std = cfg.solver, cfg.image.mean, cfg.image.std
    return Course(
        plan=build_plan(cfg, len(dataset)),
        schedule=build_schedule(cfg),
        dataset=dataset,
        collate=None,
        workers=cfg.dataloader.num_workers,
        seed=cfg.seed,
        precision=cfg.precision,
        trains_norm=not cfg.model.freeze_bn,
        model_dir=models_dir(cfg),
        log_dir=logs_dir(cfg),
        log_every=solver.iter_tb,
        images_every=cfg.train.images_every,
        save_every=cfg.train.save_every,
        mean=(mean.r, mean.g, mean.b),
        std=(std.r, std.g, std.b),
        loss_is_part=True,
        export_every=solver.iter_save,
        average=solver.average_loss,
        published_log=True,
    )


def build_state(cfg: DeepLabConfig, network: MultiScale, items: Sequence[Item]) -> TrainState:
    """Return the state of a training at its beginning."""
    solver = cfg.solver
    optimizer = build_optimizer(
        segmentation_groups(network, solver.weight_decay, untrained_fov=cfg.train.untrained_fov),
        kind=solver.optimizer,
        lr=solver.lr,
        weight_decay=solver.weight_decay,
        momentum=solver.momentum,
    )
    own = () if cfg.method == PLAIN else ("thresholds", "cdl")
    identity, may_change = lasting_settings(cfg, ("dataset", "image", "model", "solver", "train", *own))
    # The list may lie elsewhere, but must be the same.
    folders = (item.labels.parent.name if item.labels else "" for item in items)
    identity["dataset.train_list"] = fingerprint([f"{i.image_id} {name}" for i, name in zip(items, folders, strict=True)])
    average = cfg.train.average_weights
    return TrainState({"state_dict": network}, optimizer, identity, may_change=may_change, decay=average)


def _advice(cfg: DeepLabConfig, fetched: HubWeights) -> str:
    """Return a sentence where pictures are normalised otherwise than the weights learnt; Caffe's names imply their own way."""
    if cfg.model.name != BACKBONE:
        return ""
    if cfg.image.order != "rgb":
        return f"{fetched.source} learnt on RGB, the configuration says image.order={cfg.image.order}"
    mean, std = ([side.r / MAX_GREY, side.g / MAX_GREY, side.b / MAX_GREY] for side in (cfg.image.mean, cfg.image.std))
    return fetched.advice(mean, std)


def _write_card(cfg: DeepLabConfig, state: TrainState, items: int, init: str) -> None:
    solver = cfg.solver
    images = solver.batch_size.train * solver.iter_size * solver.iter_max
    facts = [("network", cfg.model.name), ("iterations", str(solver.iter_max)), ("training images", str(items)), ("init", init)]
    card = StageCard(
        key="deeplab_train",
        title=f"{TITLES[cfg.method]} training",
        program="deeplab train",
        order=SEGMENTATION_TRAINING,
        output=str(models_dir(cfg)),
        images=images,
        seconds=state.seconds,
        settings=flat_settings(cfg),
        facts=facts,
        split=set_name(cfg.dataset.split.train),
    )
    write_card(cfg.exp.output_dir, card, group=experiment(cfg))

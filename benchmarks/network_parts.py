"""The stages that work on tensors: training step, CAM inference and transfer target."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.l2g_inputs import make_batch, make_network, make_views, published_weights
from benchmarks.measure import Row, time_both
from benchmarks.project_step import ProjectStep, relative_difference
from benchmarks.sizes import Settings
from configs.cam_schema import CamConfig
from configs.schema import TrainConfig
from models.l2g import L2GSettings
from models.layers import transfer
from models.layers.lean import INFERENCE_FORMAT
from utils.cams.inference import CamSettings, infer_batch
from utils.cams.merge import quantise_cams
from utils.runtime.device import autocast_for

VOC_CLASSES = 20
# Classes of the image CAMs are made of.
CLASSES = (4, 14)
# A full VOC run: iterations of 10 epochs with batch 3, and images of train_cls.
VOC_STEPS, VOC_IMAGES = 35280, 10582
STEP_GOAL_GPU, CAM_GOAL_GPU, CAM_GOAL_CPU, WINNER_GOAL = 5, 6, 1.3, 10


def measure_step(s: Settings) -> Iterator[Row]:
    """One training step of both networks: forward, target, losses, backward, optimiser."""
    size, l2g, train = s.size, L2GSettings(), TrainConfig()
    networks = [make_network(size.width, VOC_CLASSES, s.device, seed=seed) for seed in (0, 1)]
    weights = [published_weights(network) for network in networks]
    batch = make_batch(size.batch, size.input_size, size.crop_size, l2g.patches, VOC_CLASSES)
    trainer = plain.Trainer(
        *weights, crop_size=size.crop_size, kd_weight=l2g.kd_weight, threshold=l2g.bg_threshold, rate=train.lr
    )
    project = ProjectStep(networks[0], networks[1], batch, size.crop_size, s.device, s.precision)

    def baseline() -> dict[str, Tensor]:
        moved = {k: v if k == "boxes" else v.to(s.device) for k, v in batch.items()}
        with _baseline_precision(s):
            return trainer.step(**moved)

    difference = _step_difference(baseline(), project.step(), trainer, project)
    timing = time_both(baseline, project.step, repeat=s.repeat, device=s.device)
    what = (
        f"training step, batch {size.batch}, {size.input_size}/{size.crop_size} px, {l2g.patches} patches, width {size.width:g}"
    )
    yield Row(what, timing, difference, goal=STEP_GOAL_GPU if size.full else 0, runs=VOC_STEPS if size.full else 0)


def _step_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor], trainer: plain.Trainer, project: ProjectStep) -> str:
    losses = max(relative_difference(ours[k], theirs[k]) for k in theirs)
    pairs = [(trainer.global_weights, project.gradients(0)), (trainer.local_weights, project.gradients(1))]
    states = trainer.optimizer.state
    gradients = max(
        relative_difference(gradient, states[weights[name]]["momentum_buffer"])
        for weights, named in pairs
        for name, gradient in named.items()
    )
    return f"{losses:.1e} of a loss, {gradients:.1e} of a tensor's largest gradient"


def measure_cam(s: Settings) -> Iterator[Row]:
    """CAMs of one image with two present classes: four scales, mirrored; loading and writing left out on both sides."""
    size, settings = s.size, CamSettings(flip=True, score_threshold=None, label_threshold=None)
    network = make_network(size.width, VOC_CLASSES, s.device, seed=0)
    weights = published_weights(network)
    network = network.to(memory_format=INFERENCE_FORMAT)
    scales = [view.to(s.device) for view in make_views(size.image, tuple(CamConfig().scales))]
    views = [v for scale in scales for v in (scale, scale.flip(3))]
    ready = [scale.contiguous(memory_format=INFERENCE_FORMAT) for scale in scales]

    @torch.inference_mode()
    def baseline() -> Tensor:
        with _baseline_precision(s):
            return plain.cams(weights, views, size.image, CLASSES).cpu()

    @torch.inference_mode()
    def ours() -> Tensor:
        (found,) = infer_batch(network, ready, size.image, [CLASSES], settings, autocast_for(s.precision, s.device))
        return quantise_cams(found.cams).cpu()

    grey = (baseline().int() - ours().int()).abs()
    timing = time_both(baseline, ours, repeat=s.repeat, device=s.device)
    what = f"CAM inference per image, {size.image[1]}x{size.image[0]}, 4 scales x flip, width {size.width:g}"
    difference = f"{int(grey.max())} grey level(s), mean {float(grey.float().mean()):.2g}"
    yield Row(what, timing, difference, goal=CAM_GOAL_GPU if size.full else CAM_GOAL_CPU, runs=VOC_IMAGES if size.full else 0)


def measure_target(s: Settings) -> Iterator[Row]:
    """The winner map alone, then the whole transfer target."""
    threshold = L2GSettings().bg_threshold
    for views, channels, cells in s.size.grids:
        shape = f"{views}x{channels}x{cells}x{cells}"
        torch.manual_seed(0)
        attention = torch.rand(views, channels, cells, cells, device=s.device)
        ours = partial(transfer.transfer_target, attention, None, threshold=threshold)
        yield _compare(s, f"winner map {shape}", partial(plain.winner_map, attention), ours, goal=WINNER_GOAL)
        maps = torch.randn(views, channels, cells, cells, device=s.device)
        saliency = torch.rand(views, 1, plain.STRIDE * cells, plain.STRIDE * cells, device=s.device)
        labels = torch.zeros(views // 2, channels - 1, device=s.device)
        labels[:, list(CLASSES)] = 1
        inputs = (maps, saliency, labels, threshold)
        yield _compare(s, f"transfer target {shape}", partial(plain.transfer_target, *inputs), partial(_target, *inputs))


def _target(maps: Tensor, saliency: Tensor, labels: Tensor, threshold: float) -> Tensor:
    small = transfer.resize_saliency(saliency, (maps.shape[2], maps.shape[3]))
    return transfer.transfer_target(transfer.patch_attention(maps, labels), small, threshold=threshold)


def _compare(s: Settings, what: str, baseline: Callable[[], Tensor], ours: Callable[[], Tensor], goal: float = 0) -> Row:
    difference = float((baseline() - ours()).abs().max())
    return Row(what, time_both(baseline, ours, repeat=s.repeat, device=s.device), f"{difference:.1e}", goal=goal)


@contextlib.contextmanager
def _baseline_precision(s: Settings) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and s.tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before

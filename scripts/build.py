"""Wiring shared by the stage programs: configuration to networks."""

from typing import Any, cast

from torch import nn

from configs.schema import Config
from models.cam_net import CamNetwork, build_cam_network
from models.l2g import L2G, BackgroundRow, BackgroundTarget, Classification, L2GOptions
from models.layers.cpu_convs import training_format
from models.layers.gates import GateOptions
from utils.errors import UserError
from utils.runtime.device import compile_in_place
from utils.runtime.processes import Dist, distribute
from utils.training.optim import Phase
from utils.training.weights import load_weights, read_weights


def build_network(cfg: Config) -> CamNetwork:
    """Build the CAM network `cfg.model` describes, with random weights.

    Raises:
        UserError: for an unknown backbone or a missing optional library.
    """
    model = cfg.model
    try:
        return build_cam_network(
            model.backbone,
            cfg.data.num_classes,
            width=model.width,
            freeze_bn=model.freeze_bn,
            freeze_stem=model.freeze_stem,
            dropout=model.dropout,
            output_stride=model.output_stride,
            gates=_gate_options(cfg),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _gate_options(cfg: Config) -> GateOptions:
    model = cfg.model
    return GateOptions(
        suppression=model.suppression,
        suppression_places=tuple(model.suppression_places),
        suppression_ratio=model.suppression_ratio,
        attention=model.attention,
        attention_places=tuple(model.attention_places),
        attention_reduction=model.attention_reduction,
        train=model.train_gates,
    )


def load_initial_weights(network: CamNetwork, cfg: Config, source: str = "global") -> None:
    """Load `train.init_from` (a whole network, strict) or else `model.pretrained` (a trunk, the allowed keys may lack).

    Args:
        network: what to load into.
        cfg: the run.
        source: global or local, which network of a training checkpoint `train.init_from`.
    """
    if cfg.train.init_from:
        state = read_weights(cfg.train.init_from, source)
        load_weights(network, state, source=cfg.train.init_from)
    elif cfg.model.pretrained:
        load_weights(
            network,
            read_weights(cfg.model.pretrained),
            source=cfg.model.pretrained,
            # A trunk's weight file never has gates: they start at random.
            allow_missing=[*cfg.model.allow_missing, *network.gate_keys()],
            allow_unexpected=cfg.model.allow_unexpected,
        )


def build_trainable(cfg: Config, place: Dist, source: str = "global") -> CamNetwork:
    """Build a network with its initial weights on this process's device, in the memory layout that suits it.

    Arguments as of `load_initial_weights`.
    """
    network = build_network(cfg)
    load_initial_weights(network, cfg, source)
    if cfg.model.checkpoint_activations:
        if not hasattr(network.backbone, "checkpoint_activations"):
            raise UserError(f"model.checkpoint_activations is for resnet38, not {cfg.model.backbone}; leave it false")
        cast(Any, network.backbone).checkpoint_activations = True
    network = network.to(place.device).to(memory_format=training_format(network, place.device))
    if cfg.compile:
        compile_in_place(network.backbone, place.device, sizes_vary=False)  # crops and losses stay uncompiled
    return network


def build_step(cfg: Config, phase: Phase, global_net: CamNetwork, local_net: CamNetwork, place: Dist) -> nn.Module:
    """Build the module one step of `phase` runs: `forward(batch) -> StepOutput`, over all processes."""
    module = Classification(global_net) if phase.classifies else L2G(global_net, local_net, build_l2g_options(cfg))
    return distribute(module, place, trains_norm=not cfg.model.freeze_bn)


def build_l2g_options(cfg: Config) -> L2GOptions:
    """Translate the `l2g` section to the options of `models.l2g.L2G`."""
    l2g = cfg.l2g
    return L2GOptions(
        crop_size=l2g.crop_size,
        kd_weight=l2g.kd_weight,
        bg_threshold=l2g.bg_threshold,
        background_target=cast(BackgroundTarget, l2g.background_target),
        use_saliency=l2g.saliency == "map",
        background_row=cast(BackgroundRow, l2g.background_row),
        normalise_per_image=l2g.cam_norm == "image",
        roi_aligned=l2g.roi_aligned,
        saliency_grid=l2g.saliency_grid,
        target_dropout=l2g.target_dropout,
        global_cls_weight=l2g.global_cls_weight,
        pool_by_saliency=l2g.global_cls_pool == "saliency",
    )

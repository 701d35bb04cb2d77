"""A training step of the variant with suppression, attention and pasted pairs against the published loop."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.schema import Config
from models.cam_net import CamNetwork, build_cam_network
from models.l2g import L2GSettings, Transfer
from models.layers.gates import GateOptions
from models.method import Batch, StepOutput, interleaved_groups
from scripts.build import load_config
from scripts.train import build_schedule
from tests.golden_weights import filled
from utils.training.optim import build_optimizer

ROOT = Path(__file__).parents[2]
VIEW, CROP = 64, 48


@pytest.fixture(scope="module")
def cfg() -> Config:
    return load_config(ROOT / "configs" / "l2g_voc_sa_cda.yaml", [f"l2g.input_size={VIEW}", f"l2g.crop_size={CROP}"])


@pytest.fixture(scope="module")
def model(cfg: Config) -> Transfer:
    nets = [_network(cfg, prefix) for prefix in ("", "local.")]
    return Transfer(nets[0], nets[1], cast(L2GSettings, cfg.settings))


def _network(cfg: Config, prefix: str) -> CamNetwork:
    gates = GateOptions(suppression=cfg.model.suppression, attention=cfg.model.attention)
    network = build_cam_network("resnet38", cfg.data.num_classes, gates=gates).train()
    network.load_state_dict(network.from_published(filled(network.to_published(network.state_dict()), prefix)))
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
    for key in network.gate_keys():  # they have no part in training; their gradients are known all the same
        network.get_parameter(key).requires_grad_(True)
    return network


def _whole_map(crops: np.ndarray, boxes: np.ndarray) -> Tensor:
    """Put the saliency of all crops of a view together again."""
    whole = np.zeros((1, VIEW, VIEW), np.float32)
    for crop, (_, x1, y1, x2, y2) in zip(crops, boxes, strict=True):
        whole[:, y1:y2, x1:x2] = crop
    return torch.from_numpy(whole)


def _batch(golden: "np.lib.npyio.NpzFile", leaked: bool) -> Batch:
    boxes = torch.from_numpy(golden["boxes"])[:, 1:]
    augmented, original = torch.from_numpy(golden["label_aug"]), torch.from_numpy(golden["label_ori"])
    batch: Batch = {
        "images": torch.from_numpy(np.stack([golden["img"], golden["ori_img"]])),
        "saliency": torch.stack([_whole_map(golden[name][0], golden["boxes"]) for name in ("sal", "ori_sal")]),
        "boxes": torch.stack([boxes, boxes]),
        "labels": torch.stack([augmented, augmented if leaked else original]),
    }
    if leaked:
        batch["local_labels"] = torch.stack([augmented, original])
    return batch


def _views(output: StepOutput, model: Transfer, batch: Batch) -> dict[str, Tensor]:
    """Return the maps of all patches; a step hands out those of the first image only."""
    swapped: Batch = {key: value.flip(0) for key, value in batch.items()}  # type: ignore[assignment, attr-defined]
    with torch.no_grad():
        second = model(swapped)["views"]
    return {key: torch.cat([output["views"][key], second[key]]) for key in ("target", "softmax")}


@pytest.mark.parametrize(("name", "leaked"), [("asis", True), ("fixed", False)])
def test_step_equals_published(cfg: Config, model: Transfer, name: str, leaked: bool) -> None:
    golden = np.load(ROOT / "tests" / "golden" / "sa_cda" / f"train_step_cda_{name}.npz")
    nets = {"global": model.global_net, "local": model.local_net}
    batch = _batch(golden, leaked)
    model.zero_grad()
    output = model(batch)
    output["loss"].backward()
    for loss, found in (("kd", "loss_kd"), ("cls_local", "loss_cls_local"), ("cls_global", "loss_cls_global")):
        np.testing.assert_allclose(output["losses"][loss].item(), golden[found], rtol=1e-5, err_msg=loss)
    np.testing.assert_allclose(output["loss"].item(), golden["loss"], rtol=1e-5)
    views = _views(output, model, batch)
    np.testing.assert_allclose(views["target"], golden["target"], atol=1e-5)
    np.testing.assert_allclose(views["softmax"], golden["aligned"], atol=1e-5)
    for role, net in nets.items():
        norms = [_gradient(net, str(key)).double().norm().item() for key in golden["gradnorm_names"]]
        np.testing.assert_allclose(norms, golden[f"gradnorm_{role}"], rtol=1e-3, atol=1e-7)
    _check_updates(cfg, model.global_net, golden)


def _gradient(net: CamNetwork, key: str) -> Tensor:
    gradient = net.to_published(dict(net.named_parameters()))[key].grad
    assert gradient is not None
    return gradient


def _check_updates(cfg: Config, net: CamNetwork, golden: "np.lib.npyio.NpzFile") -> None:
    """Step on the watched parameters alone, then put them back."""
    parameters = net.to_published(dict(net.named_parameters()))
    watched = {str(key): parameters[str(key)] for key in golden["update_names"]}
    ids = {id(p) for p in watched.values()}
    groups = {k: [p for p in v if id(p) in ids] for k, v in net.parameter_groups().items()}
    before = {key: p.detach().clone() for key, p in watched.items()}
    train = cfg.train
    assert build_schedule(train).rate(train.lr, epoch=train.first_epoch, step=0, steps=1) == train.lr
    build_optimizer(
        interleaved_groups([groups], train.lr_head_factor),
        kind=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        nesterov=train.nesterov,
    ).step()
    for key, largest, norm in zip(watched, golden["update_absmax"], golden["update_norm"], strict=True):
        change = watched[key].detach() - before[key]
        np.testing.assert_allclose(change.abs().max(), largest, rtol=1e-2, atol=1e-9, err_msg=key)
        np.testing.assert_allclose(change.norm(), norm, rtol=1e-2, atol=1e-9, err_msg=key)
        watched[key].data.copy_(before[key])

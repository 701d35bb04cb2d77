"""Two optimisation steps of L2G against the published training loop."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from configs.schema import Config
from models.cam_net import CamNetwork, build_cam_network
from models.l2g import L2GSettings, Transfer
from models.method import Batch, interleaved_groups
from scripts.build import load_config
from scripts.train import build_schedule
from tests.golden_weights import filled
from utils.training.optim import build_optimizer, set_learning_rate

ROOT = Path(__file__).parents[2]


def _network(classes: int, prefix: str) -> CamNetwork:
    network = build_cam_network("resnet38", classes)
    network.load_state_dict(network.from_published(filled(network.to_published(network.state_dict()), prefix)))
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
    return network


def _published(name: str) -> tuple[Config, Transfer, Batch, "np.lib.npyio.NpzFile"]:
    golden = np.load(ROOT / "tests" / "golden" / f"train_step_{name}.npz")
    cfg = load_config(ROOT / "configs" / f"l2g_{name}.yaml", ["l2g.input_size=64", "l2g.crop_size=40"])
    model = Transfer(
        _network(cfg.data.num_classes, ""), _network(cfg.data.num_classes, "local."), cast(L2GSettings, cfg.settings)
    )
    batch: Batch = {
        "images": torch.from_numpy(golden["img"]),
        "saliency": torch.from_numpy(golden["sal"]).float() / 255,
        "boxes": torch.from_numpy(golden["boxes"])[..., 1:],
        "labels": torch.from_numpy(golden["label"]),
    }
    return cfg, model, batch, golden


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_two_steps_equal_published(name: str) -> None:
    cfg, model, batch, golden = _published(name)
    nets = {"global": model.global_net, "local": model.local_net}
    train = cfg.train
    groups = interleaved_groups([net.parameter_groups() for net in nets.values()], train.lr_head_factor)
    optimizer = build_optimizer(
        groups,
        kind=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        nesterov=train.nesterov,
    )
    for step, tolerance in ((0, 1e-5), (1, 1e-2)):
        set_learning_rate(optimizer, build_schedule(train).rate(train.lr, epoch=0, step=step, steps=2))
        np.testing.assert_allclose([g["lr"] for g in optimizer.param_groups], golden["lr_groups_used"][step])
        output = model(batch)
        output["loss"].backward()
        for key, found in (("kd", "loss_kd"), ("cls_local", "loss_cls_local"), ("cls_global", "loss_cls_global")):
            np.testing.assert_allclose(output["losses"][key].item(), golden[found][step], rtol=tolerance, err_msg=key)
        np.testing.assert_allclose(output["loss"].item(), golden["loss_total"][step], rtol=tolerance)
        if step == 0:
            _check_gradients(nets, golden)
            views, channels = output["views"], golden["channels"]
            patches = cfg.settings.patches
            np.testing.assert_allclose(views["target"][:, channels], golden["target_step0"][:patches], atol=1e-5)
            np.testing.assert_allclose(views["softmax"][:, channels], golden["aligned_softmax_step0"][:patches], atol=1e-5)
        optimizer.step()
        optimizer.zero_grad()


def _check_gradients(nets: dict[str, CamNetwork], golden: "np.lib.npyio.NpzFile") -> None:
    for role, net in nets.items():
        parameters = net.to_published(dict(net.named_parameters()))
        norms = []
        for key in golden["watch"]:
            gradient = parameters[str(key)].grad
            norms.append(0.0 if gradient is None else gradient.norm().item())
        np.testing.assert_allclose(norms, golden[f"grad_norm_{role}"][0], rtol=1e-3, atol=1e-7)
        rows = parameters["fc8.weight"].grad
        assert rows is not None
        np.testing.assert_allclose(rows.flatten(1).norm(dim=1), golden[f"fc8_grad_row_norm_{role}"][0], rtol=1e-3, atol=1e-6)


def _tiny(**options: object) -> tuple[Transfer, Batch]:
    torch.manual_seed(0)
    nets = [build_cam_network("resnet38", 2, width=0.0625) for _ in range(2)]
    cfg = load_config(ROOT / "configs" / "l2g_voc.yaml", ["l2g.crop_size=24", "l2g.input_size=32"])
    for key, value in options.items():
        setattr(cfg.settings, key, value)
    batch: Batch = {
        "images": torch.rand(1, 3, 32, 32),
        "saliency": torch.rand(1, 1, 32, 32),
        "boxes": torch.tensor([[[0, 0, 24, 24], [8, 8, 32, 32]]]),
        "labels": torch.tensor([[1.0, 0.0]]),
    }
    return Transfer(nets[0], nets[1], cast(L2GSettings, cfg.settings)).train(), batch


def test_global_classification_loss_trains_only_with_weight() -> None:
    for weight in (0.0, 0.5):
        model, batch = _tiny(global_cls_weight=weight, kd_weight=0.0)
        model(batch)["loss"].backward()
        gradient = model.global_net.head.classifier.weight.grad
        assert gradient is not None
        assert (gradient.abs().sum() > 0) == (weight > 0)


def test_target_without_dropout_is_repeatable() -> None:
    model, batch = _tiny(target_dropout=False)
    torch.manual_seed(1)
    first = model(batch)["views"]["target"]
    torch.manual_seed(2)
    assert torch.equal(first, model(batch)["views"]["target"])


def test_without_saliency_the_winner_map_is_the_target() -> None:
    model, batch = _tiny(saliency="none")
    target = model(batch)["views"]["target"]
    assert (target > 0).sum(dim=1).max() == 1
    assert target[:, 1].max() == 0  # the absent class


@pytest.mark.parametrize("saliency", ["map", "none"])
def test_background_row_learns_only_where_it_is_trained(saliency: str) -> None:
    for row in ("compete", "train"):
        model, batch = _tiny(background_row=row, saliency=saliency)
        output = model(batch)
        assert ("background" in output["losses"]) == (row == "train")
        output["loss"].backward()
        gradient = model.local_net.head.classifier.weight.grad
        assert gradient is not None
        assert (gradient[-1].abs().sum() > 0) == (row == "train")


def test_trained_background_row_leaves_salient_cells() -> None:
    model, batch = _tiny(background_row="train")
    batch["saliency"] = torch.ones_like(batch["saliency"])
    optimizer = torch.optim.Adam(model.local_net.head.parameters(), lr=0.003)
    losses = []
    for _ in range(20):
        output = model(batch)
        losses.append(output["losses"]["background"].item())
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def _losses_and_gradient(checkpointed: bool = False, backend: str = "") -> tuple[dict[str, float], torch.Tensor]:
    model, batch = _tiny(global_cls_weight=0.5)  # the same weights each time
    for network in (model.global_net, model.local_net):
        cast(Any, network.backbone).checkpoint_activations = checkpointed
        if backend:
            network.backbone.compile(backend=backend, dynamic=False)
    torch.manual_seed(3)  # of dropout, which is on
    output = model(batch)
    output["loss"].backward()
    gradient = model.global_net.backbone.get_parameter("b3.conv_branch2a.weight").grad
    assert gradient is not None
    return {name: value.item() for name, value in output["losses"].items()}, gradient


def test_checkpointed_activations_change_nothing() -> None:
    losses, gradient = _losses_and_gradient()
    again, same = _losses_and_gradient(checkpointed=True)
    assert again == losses
    assert torch.equal(gradient, same)


def test_compiled_trunks_change_nothing() -> None:
    losses, gradient = _losses_and_gradient()
    again, same = _losses_and_gradient(backend="eager")
    assert again == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(same, gradient, rtol=1e-4, atol=1e-7)

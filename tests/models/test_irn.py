"""IRNet: its networks, published key names, losses and numbers, and what its method asks of samples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import Config
from models.irn import Irn, IrnNetwork, boundary_fields
from models.method import find_method
from scripts.build import build_method, load_config
from tests.golden_weights import filled
from tests.tiny_data import CLASSES, tiny_config
from utils.training.weights import load_weights

FOLDER = Path(__file__).parents[1] / "golden" / "crt"
KEYS: dict[str, list[int]] = json.loads((FOLDER / "state_dict_resnet50_irn.json").read_text())
PRIMARY = ("resnet50.", "fc_", "mean_shift.")


def _config(*overrides: str) -> Config:
    return load_config("configs/irn_voc.yaml", ["model.pretrained=", *overrides])


def _golden_weights(network: IrnNetwork) -> dict[str, Tensor]:
    """Return published entries under their first names; `mean_shift.running_mean` is the name of that one."""
    published = {key: v for key, v in network.to_published(network.state_dict()).items() if key.startswith(PRIMARY)}
    del published["fc_dp7.4.running_mean"]
    return filled(published)


@pytest.fixture(scope="module")
def published() -> IrnNetwork:
    network = IrnNetwork(_config())
    load_weights(network, _golden_weights(network), source="recipe")
    return network


def _input(golden: Mapping[str, np.ndarray], *shape: int) -> Tensor:
    draws = np.random.RandomState(int(golden["input_seed"])).standard_normal(shape)  # noqa: NPY002
    return torch.from_numpy(draws.astype(np.float32))


def test_keys_and_shapes_are_the_published_ones(published: IrnNetwork) -> None:
    """All 1056 but the tables of pairs, which a published file may hold and ours leaves out."""
    found = {key: list(value.shape) for key, value in published.to_published(published.state_dict()).items()}
    tables = {key for key in KEYS if key.startswith(("path_indices", "disp_target"))}
    assert found == {key: shape for key, shape in KEYS.items() if key not in tables}
    assert len(KEYS) == 1056 and len(tables) == 21


def test_a_published_file_loads_with_all_its_names(published: IrnNetwork) -> None:
    tables = {"path_indices0": torch.zeros(2, 2, 4, dtype=torch.int64), "disp_target": torch.zeros(1, 2, 2, 1)}
    state = {**tables, **published.to_published(published.state_dict())}
    other = IrnNetwork(_config())
    load_weights(other, state, source="published.pth")
    for key, value in published.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(("side", "suffix"), [(128, ""), (512, "_crop512")])
def test_published_boundaries_and_displacements(published: IrnNetwork, side: int, suffix: str) -> None:
    golden = np.load(FOLDER / "irn_eval.npz")
    with torch.no_grad():
        edge, moved = boundary_fields(published.eval(), _input(golden, 1, 3, *golden["hw"]), side)
    np.testing.assert_allclose(published.mean_shift.running_mean, golden["running_mean"], atol=1e-6)
    np.testing.assert_allclose(edge[0], golden[f"edge{suffix}"], atol=1e-4)
    np.testing.assert_allclose(moved[0], golden[f"dp{suffix}"], atol=1e-4)


def test_published_training_step(published: IrnNetwork) -> None:
    golden = np.load(FOLDER / "irn_train_step.npz")
    method = Irn(_config("irn.input_size=128"))
    method.network.load_state_dict(published.state_dict())
    images, seeds = _input(golden, 2, 3, 128, 128), torch.from_numpy(golden["seg"])
    with torch.no_grad():
        logits, moved = method.network.train()(images)
    np.testing.assert_allclose(logits, golden["edge_out"], atol=1e-4)
    np.testing.assert_allclose(moved, golden["dp_out"], atol=1e-4)
    output = method.train()({"images": images, "seeds": seeds})
    expected = dict(zip(golden["loss_names"].tolist(), golden["losses"].tolist(), strict=True))
    for name in ("pos", "neg", "dp_fg", "dp_bg"):
        np.testing.assert_allclose(output["losses"][name], expected[name], rtol=1e-4)
    np.testing.assert_allclose(output["losses"]["loss"], expected["total"], rtol=1e-4)
    output["loss"].backward()
    parameters = dict(method.network.named_parameters())
    for name, norm in zip(golden["grad_names"].tolist(), golden["grad_norms"].tolist(), strict=True):
        gradient = parameters[name.replace("resnet50.", "backbone.")].grad
        assert (gradient is None) == bool(np.isnan(norm)), name
        if gradient is not None:
            np.testing.assert_allclose(gradient.norm(), norm, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("backbone", ["resnet38", "vgg16", "timm:test_efficientnet"])
def test_any_trunk_carries_the_branches(backbone: str) -> None:
    small = ["model.width=0.0625", f"model.backbone={backbone}"]
    network = IrnNetwork(_config(*small)).eval()
    with torch.no_grad():
        edge, moved = boundary_fields(network, torch.rand(1, 3, 62, 55), 64)
    assert edge.shape == (1, 1, 16, 14) and moved.shape == (1, 2, 16, 14)
    network.train()
    assert not any(p.requires_grad for p in network.backbone.parameters()) and not network.backbone.training
    renamed = network.from_published(network.to_published(network.state_dict()))
    assert renamed.keys() == network.state_dict().keys()


def test_a_picture_larger_than_the_padding_keeps_its_size() -> None:
    """As published it would be cut to 512 x 512, and no longer lie on its CAM."""
    network = IrnNetwork(_config("model.backbone=resnet38", "model.width=0.0625")).eval()
    with torch.no_grad():
        edge, _ = boundary_fields(network, torch.rand(1, 3, 70, 41), 64)
    assert edge.shape == (1, 1, 18, 11)


def test_the_mean_shift_is_the_mean_over_batches(tmp_path: Path) -> None:
    method = find_method("irn")(tiny_config(tmp_path, "method=irn"))
    network: Any = method.networks()["state_dict"]
    batches = [torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)]
    method.finish(batches)
    with torch.no_grad():
        left = torch.stack([network.eval()(images)[1].mean(dim=(0, 2, 3)) for images in batches]).mean(dim=0)
    torch.testing.assert_close(left, torch.zeros(2), atol=1e-5, rtol=0)
    shift = network.mean_shift.running_mean.clone()
    assert shift.abs().max() > 0
    method.finish(batches)  # once more, as after a resumed run: it does not add up
    torch.testing.assert_close(network.mean_shift.running_mean, shift)
    method.finish([])
    assert (network.mean_shift.running_mean == 0).all()


def test_groups_schedule_and_momentum_are_the_published_ones() -> None:
    cfg = _config()
    groups = build_method(cfg, torch.device("cpu")).parameter_groups()
    assert [group["lr_scale"] * cfg.train.lr for group in groups] == [0.1, 1.0]
    assert [len(group["params"]) for group in groups] == [17, 22]
    assert cfg.train.momentum == 1e-4 and cfg.train.poly_power == 0.9
    assert 10582 // cfg.train.batch_size * cfg.train.epochs == 990


def test_samples_without_seeds_and_cams_from_boundaries_are_refused(tmp_path: Path) -> None:
    method = find_method("irn")(tiny_config(tmp_path, "method=irn"))
    with pytest.raises(ValueError, match="make them with scripts.make_seeds"):
        method({"images": torch.rand(1, 3, 64, 64)})
    with pytest.raises(ValueError, match="makes boundaries, not CAMs"):
        find_method("irn").inference_network(method.cfg)
    with pytest.raises(ValueError, match="method=l2g makes no boundaries"):
        find_method("l2g").boundary_network(method.cfg)
    assert method.cfg.data.num_classes == CLASSES

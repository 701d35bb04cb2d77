"""Checkpoints of a training: what is stored comes back, and what must not change is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.training.state import LAST, TrainState


class _Network(nn.Linear):
    """Entries are published as p_<name>."""

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"p_{key}": value for key, value in state.items()}

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.removeprefix("p_"): value for key, value in state.items()}


def _state(seed: int, outputs: int = 2) -> TrainState:
    torch.manual_seed(seed)
    networks = {"state_dict": _Network(3, outputs), "local_dict": _Network(3, outputs)}
    optimizer = torch.optim.SGD([p for n in networks.values() for p in n.parameters()], lr=0.1, momentum=0.9)
    sum(n(torch.ones(1, 3)).sum() for n in networks.values()).backward()
    optimizer.step()
    return TrainState(networks, optimizer, {"seed": 7, "train.batch_size": 2})


def test_resume_restores_everything(tmp_path: Path) -> None:
    one, other = _state(0), _state(1)
    one.position, one.latest, one.best = 50, [0.5, 0.25], 0.7
    one.save(tmp_path / LAST)
    assert other.resume("auto", tmp_path) == tmp_path / "last.pth"
    assert (other.position, other.latest, other.best) == (50, [0.5, 0.25], 0.7)
    assert 0 < torch.load(tmp_path / LAST, weights_only=True)["seconds"] <= other.seconds
    assert set(torch.load(tmp_path / LAST, weights_only=True)["state_dict"]) == {"p_weight", "p_bias"}
    for key, network in one.networks.items():
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.networks[key].state_dict()[name])
    momenta = [s.optimizer.state_dict()["state"][0]["momentum_buffer"] for s in (one, other)]
    assert torch.equal(*momenta)


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert _state(0).resume("auto", tmp_path) is None
    assert _state(0).resume("", tmp_path) is None


def test_other_runs_are_refused(tmp_path: Path) -> None:
    _state(0).save(tmp_path / LAST)
    changed = _state(0)
    changed.identity = {"seed": 8, "train.batch_size": 2}
    with pytest.raises(UserError, match="seed=7"):
        changed.resume("auto", tmp_path)
    with pytest.raises(UserError, match=r"(?s)does not fit this network.*section model"):
        _state(0, outputs=5).resume("auto", tmp_path)

"""Checkpoints of a training: what is stored comes back, and what must not change is refused."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.training.plan import Plan, Span
from utils.training.state import LAST, TrainState, refuse_used

LOG = logging.getLogger("test")


class _Phase(NamedTuple):
    name: str = "training"
    lr: float = 0.1
    fresh_optimizer: bool = False
    continues: bool = False


PLAN = Plan(100, 2, 1, False, 0, [Span(_Phase(), 0, 100)])


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
    assert other.resume("auto", tmp_path, PLAN, LOG) == tmp_path / "last.pth"
    assert (other.position, other.latest, other.best) == (50, [0.5, 0.25], 0.7)
    assert 0 < torch.load(tmp_path / LAST, weights_only=True)["seconds"] <= other.seconds
    assert set(torch.load(tmp_path / LAST, weights_only=True)["state_dict"]) == {"p_weight", "p_bias"}
    for key, network in one.networks.items():
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.networks[key].state_dict()[name])
    momenta = [s.optimizer.state_dict()["state"][0]["momentum_buffer"] for s in (one, other)]
    assert torch.equal(*momenta)


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert _state(0).resume("auto", tmp_path, PLAN, LOG) is None
    assert _state(0).resume("", tmp_path, PLAN, LOG) is None


def test_settings_that_cannot_change_are_refused_by_name(tmp_path: Path) -> None:
    _state(0).save(tmp_path / LAST)
    changed = _state(0)
    changed.identity = {"seed": 8, "train.batch_size": 2}
    with pytest.raises(UserError, match="trained with seed=7, not seed=8; use the same values"):
        changed.resume("auto", tmp_path, PLAN, LOG)


def test_settings_that_may_change_are_taken_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _state(0).save(tmp_path / LAST)
    changed = _state(0)
    changed.identity, changed.may_change = {"seed": 7, "train.batch_size": 4, "of a later version": 1}, {"train.batch_size"}
    with caplog.at_level(logging.INFO):
        assert changed.resume("auto", tmp_path, PLAN, LOG)
    assert caplog.messages[1:] == ["other than before: train.batch_size=4, it was 2"]


def test_networks_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    _state(0).save(tmp_path / LAST)
    with pytest.raises(UserError, match="does not fit") as caught:
        _state(0, outputs=5).resume("auto", tmp_path, PLAN, LOG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["weights", "momenta"])
def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path: Path, part: str) -> None:
    state = _state(0)
    if part == "weights":
        next(state.networks["local_dict"].parameters()).data[0] = float("nan")
    else:
        state.optimizer.state_dict()["state"][0]["momentum_buffer"][0] = float("inf")
    state.save(tmp_path / LAST)
    with pytest.raises(UserError, match="p_weight" if part == "weights" else "optimizer.0.momentum_buffer"):
        _state(0).resume("auto", tmp_path, PLAN, LOG)


@pytest.mark.parametrize("resume", ["", "auto", "elsewhere/last.pth"])
def test_an_earlier_training_is_not_written_over(tmp_path: Path, resume: str) -> None:
    refuse_used(tmp_path, resume, name="name", renamed=[tmp_path])
    (tmp_path / ".lock").touch()
    refuse_used(tmp_path, resume, name="name", renamed=[tmp_path])
    (tmp_path / "final.pth").touch()
    with pytest.raises(UserError, match=r"\(final.pth\); give this one another name, .*train.overwrite=true"):
        refuse_used(tmp_path, resume, name="name", renamed=[tmp_path])
    if resume != "auto":
        (tmp_path / LAST).touch()
        with pytest.raises(UserError, match=r"last.pth\); continue it with train.resume=auto, .*another name"):
            refuse_used(tmp_path, resume, name="name", renamed=[tmp_path])


@pytest.mark.parametrize("resume", ["auto", "model/last.pth"])
def test_an_earlier_training_is_continued(tmp_path: Path, resume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    (tmp_path / "model" / "last.pth").touch()
    refuse_used(tmp_path / "model", resume, name="name", renamed=[tmp_path])


@pytest.mark.parametrize("share", [0, 0.5, None])
def test_a_damaged_checkpoint_falls_back_with_a_warning(tmp_path: Path, share: float | None) -> None:
    """Half of it, nothing of it, or no file at all."""
    state, last = _state(0), tmp_path / LAST
    for state.position in (50, 60):
        state.save(last)
    _damage(last, share)
    resumed, lines = _state(1), _Lines()
    logging.getLogger("l2g").addHandler(lines)
    try:
        assert resumed.resume("auto", tmp_path, PLAN, LOG) == tmp_path / "last.pth.previous"
    finally:
        logging.getLogger("l2g").removeHandler(lines)
    assert resumed.position == 50
    (line,) = lines.found
    assert str(last) in line and f"goes on from {last}.previous" in line and "\n" not in line
    # The damaged file never takes the good one's place, however soon the next kill comes.
    resumed.position = 70
    resumed.save(last)
    for path, position in ((last, 70), (tmp_path / "last.pth.previous", 50)):
        assert torch.load(path, weights_only=True)["position"] == position
    resumed.save(last)
    assert torch.load(tmp_path / "last.pth.previous", weights_only=True)["position"] == 70


def _damage(path: Path, share: float | None) -> None:
    content = path.read_bytes()
    if share is None:
        path.unlink()
    else:
        path.write_bytes(content[: int(len(content) * share)])


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def test_both_damaged_is_one_sentence(tmp_path: Path) -> None:
    state, last = _state(0), tmp_path / LAST
    state.save(last)
    state.save(last)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pth cannot be read .*last\.pth\.previous cannot be read .*start anew"):
        state.resume("auto", tmp_path, PLAN, LOG)


def test_no_hard_links_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    state = _state(0)
    for state.position in (1, 2, 3):
        state.save(tmp_path / LAST)
    positions = {path.name: torch.load(path, weights_only=True)["position"] for path in tmp_path.iterdir()}
    assert positions == {"last.pth": 3, "last.pth.previous": 2}


def test_a_checkpoint_of_another_stage_is_one_sentence(tmp_path: Path) -> None:
    """The first stage's has two networks, the segmentation's one."""
    _state(0).save(tmp_path / LAST)
    one = _state(0)
    one.networks = {"state_dict": one.networks["state_dict"]}
    with pytest.raises(UserError, match=r"last\.pth is of another method or stage \(local_dict in one of them only\)"):
        one.resume("auto", tmp_path, PLAN, LOG)
    torch.save({"position": 3, "state_dict": {}}, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"short\.pth is not a training checkpoint"):
        one.resume(str(tmp_path / "short.pth"), tmp_path, PLAN, LOG)
    one.identity = {}
    one.save(tmp_path / "forged.pth")
    with pytest.raises(UserError, match=r"forged\.pth is not a training checkpoint"):
        one.resume(str(tmp_path / "forged.pth"), tmp_path, PLAN, LOG)


def test_averaged_weights_stand_in_for_the_trained_ones() -> None:
    layer, norm = nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)
    network = nn.Sequential(layer, norm)
    nn.init.constant_(layer.weight, 1.0)
    state = TrainState({"state_dict": network}, torch.optim.SGD(network.parameters(), lr=0.1), {}, decay=0.5)
    nn.init.constant_(layer.weight, 3.0)
    nn.init.constant_(norm.state_dict()["running_mean"], 7.0)
    state.average(step=8)  # d = min(0.5, 9 / 18)
    with pytest.raises(RuntimeError, match="on the way"), state.averaged():
        assert layer.weight.detach().unique().tolist() == [2.0]
        raise RuntimeError("on the way")
    assert layer.weight.detach().unique().tolist() == [3.0]
    kept = state.networks["average"]
    assert kept.state_dict()["1.running_mean"].tolist() == [7.0]
    assert not any(parameter.requires_grad for parameter in kept.parameters())

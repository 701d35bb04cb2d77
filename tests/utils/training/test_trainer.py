"""The loop, on a toy: validation and selection, groups' rates, the guard before a step."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from utils.errors import UserError
from utils.runtime.processes import Dist, StopRequest
from utils.training.optim import Schedule, build_optimizer
from utils.training.plan import Plan, Span
from utils.training.state import TrainState
from utils.training.trainer import Course, Trainer
from utils.training.validation import Validation, validate

ALONE = Dist(0, 1, 0, torch.device("cpu"))


class _Phase(NamedTuple):
    name: str = "training"
    lr: float = 0.1
    fresh_optimizer: bool = False
    continues: bool = False


class _Numbers(Dataset[dict[str, Any]]):
    def __init__(self, spoiled: int = -1) -> None:
        self.spoiled = spoiled

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        _, index = key
        value = float("nan") if index == self.spoiled else float(index)
        return {"x": torch.tensor([value, 1.0]), "labels": torch.ones(1), "id": f"img_{index}"}


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.neck, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

    def begin(self, phase: Any) -> None:
        raise AssertionError("there is one phase")

    def step_module(self, phase: Any) -> nn.Module:
        return self

    def pictures(self, batch: Any, views: Mapping[str, Tensor]) -> dict[str, Any]:
        return {}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        loss = self.head(self.neck(self.trunk(batch["x"]))).square().mean()
        return {"loss": loss, "losses": {"loss": loss.detach()}, "views": {}}


def _trainer(
    folder: Path, scores: list[float], *, epochs: int = 3, resume: str = "", spoiled: int = -1, lr: float = 0.001
) -> Trainer:
    toy, left = _Toy(), iter(scores)
    groups = [
        {"params": list(toy.trunk.parameters()), "lr_scale": 1.0},
        {"params": list(toy.neck.parameters()), "lr_scale": 10.0},
        {"params": list(toy.head.parameters()), "lr_scale": 20.0},
    ]
    optimizer = build_optimizer(groups, kind="sgd", lr=1.0, weight_decay=0.0, momentum=0.9)
    plan = Plan(4, 2, 1, False, 0, [Span(_Phase(lr=lr), 0, 2 * epochs)])
    state = TrainState({"state_dict": toy}, optimizer, {"seed": 0})
    course = Course(
        plan=plan, schedule=Schedule("step"), dataset=_Numbers(spoiled), collate=None, workers=0, seed=0, precision="fp32",
        trains_norm=False, model_dir=folder, log_dir=folder / "tb", log_every=1, images_every=0, save_every=0, mean=(), std=(),
        validation=Validation({"val": _Numbers(-1)}, lambda means: next(left), [], 2, 0),
    )  # fmt: skip
    state.resume(resume, folder, plan, logging.getLogger("test"))
    return Trainer(toy, course, state, ALONE, StopRequest(), logging.getLogger("test"))


def _weights(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, [0.2, 0.6, 0.5])
    assert trainer.run() == 0
    assert trainer.state.best == 0.6
    best, last = _weights(tmp_path / "best.pth"), trainer.state.published_weights()["state_dict"]
    assert any(not torch.equal(best[key], last[key]) for key in best)
    second = _trainer(tmp_path / "two", [0.2, 0.6], epochs=2)
    second.run()
    assert all(torch.equal(best[key], value) for key, value in second.state.published_weights()["state_dict"].items())


def test_selection_survives_a_stop(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole", [0.2, 0.6, 0.5])
    whole.run()
    _trainer(tmp_path / "parts", [0.2, 0.6], epochs=2).run()
    rest = _trainer(tmp_path / "parts", [0.5], resume="auto")
    assert rest.state.best == 0.6
    rest.run()
    ours = rest.state.published_weights()["state_dict"]
    assert all(torch.equal(ours[key], value) for key, value in whole.state.published_weights()["state_dict"].items())
    best, expected = (_weights(tmp_path / name / "best.pth") for name in ("parts", "whole"))
    assert best.keys() == expected.keys() == ours.keys()
    assert all(torch.equal(best[key], value) for key, value in expected.items())
    assert any(not torch.equal(best[key], value) for key, value in ours.items())  # the lower score replaced nothing


def test_a_resumed_run_still_finds_a_better_epoch(tmp_path: Path) -> None:
    _trainer(tmp_path, [0.2, 0.6], epochs=2).run()
    rest = _trainer(tmp_path, [0.7], resume="auto")
    rest.run()
    best, last = _weights(tmp_path / "best.pth"), rest.state.published_weights()["state_dict"]
    assert rest.state.best == 0.7 and all(torch.equal(best[key], value) for key, value in last.items())


def test_groups_learn_at_their_own_rates(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, [0.0] * 3)
    trainer.run()
    assert [group["lr"] for group in trainer.state.optimizer.param_groups] == pytest.approx([0.001, 0.01, 0.02])


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, [], spoiled=1)
    before = {key: value.clone() for key, value in trainer.state.published_weights()["state_dict"].items()}
    with pytest.raises(UserError, match=r"loss nan .* on images img_0, img_1: .*learning rate"):
        trainer.run()
    assert all(torch.equal(before[key], value) for key, value in trainer.state.published_weights()["state_dict"].items())
    assert not (tmp_path / "last.pth").exists()


def test_a_diverged_training_writes_nothing(tmp_path: Path) -> None:
    """The last step of an epoch may leave weights that are finite and worth nothing: no loss has seen them yet."""
    _trainer(tmp_path, [0.5], epochs=1).run()
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    trainer = _trainer(tmp_path, [0.9], epochs=2, resume="auto", lr=1e-3)
    step = trainer.step

    def too_far(loss: Tensor, ids: Sequence[str]) -> None:
        step(loss, ids)
        if trainer.state.position == 4:
            with torch.no_grad():
                cast(_Toy, trainer.trainable).neck.weight.mul_(1e20)

    trainer.step = too_far  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"diverged at epoch 1 batch 2/2: the largest weight is .*e\+\d\d"):
        trainer.run()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")} == files


def test_a_run_is_not_resumed_beyond_its_end(tmp_path: Path) -> None:
    _trainer(tmp_path, [0.2, 0.6], epochs=2).run()
    with pytest.raises(UserError, match="further than this run goes"):
        _trainer(tmp_path, [], epochs=1, resume="auto")


def test_a_process_without_images_takes_part_in_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image the second of two processes has none: it must come to the same sums as the first, and add nothing."""

    class _One(_Numbers):
        def __len__(self) -> int:
            return 1

    monkeypatch.setattr("utils.training.validation.sum_over_ranks", lambda values, world: values)
    settings = Validation({"val": _One()}, lambda means: 0.0, [], 2, 0)
    found = [
        validate(
            _Toy(), _One(), 0, validation=settings, place=Dist(rank, 2, 0, torch.device("cpu")), autocast=nullcontext,
            to_device=lambda batch: batch, what="test",
        ).losses
        for rank in range(2)
    ]  # fmt: skip
    assert found[0].keys() == found[1].keys() and found[0]["loss"] > 0 and found[1]["loss"] == 0

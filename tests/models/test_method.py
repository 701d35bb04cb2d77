"""The face every method keeps, and how one is found."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import models
from configs.schema import Config
from models.method import Batch, Method, find_method
from scripts.build import load_config
from tests.tiny_data import CLASSES, tiny_config
from utils.data.paste import collate_views
from utils.data.samples import ViewDataset
from utils.errors import UserError
from utils.training.optim import build_optimizer

METHODS = ["l2g", "cam", "wsfcn", "onestage", "bsl", "crt", "irn", "tscam", "crt_wsol"]
# Those that make something else than CAMs.
WITHOUT_CAMS = ["irn"]


def _config(tmp_path: Path, name: str, *overrides: str) -> Config:
    return tiny_config(tmp_path, f"method={name}", "train.epochs=3", *overrides)


def _batch(cfg: Config) -> Batch:
    dataset = ViewDataset(cfg.data, cfg.settings, cfg.seed)
    batch: Batch = collate_views([dataset[(0, index)] for index in range(2)])  # type: ignore[assignment]
    return batch


def test_every_file_with_a_method_is_listed_here() -> None:
    folder = Path(models.__file__ or "").parent
    named = [path.stem for path in folder.glob("*.py") if re.search(r"^    name = ", path.read_text(encoding="utf-8"), re.M)]
    assert sorted(named) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_phases_cover_the_run_and_each_trains(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    cfg = _config(tmp_path, name, "train.classify_epochs=1")
    method = find_method(name)(cfg)
    phases = method.phases()
    assert phases[0].start == 0 and phases[-1].end == 3
    assert all(one.end == other.start for one, other in zip(phases, phases[1:], strict=False))
    batch = _batch(cfg)
    optimizer = build_optimizer(method.parameter_groups(), kind="sgd", lr=1e-3, weight_decay=0.0, momentum=0.9)
    for phase in phases:
        module = method.step_module(phase).train()
        before = {key: p.detach().clone() for key, p in module.named_parameters() if p.requires_grad}
        output = module(batch)
        assert output["loss"].requires_grad and torch.isfinite(output["loss"])
        assert output["losses"] and not any(value.requires_grad for value in output["losses"].values())
        output["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        after = dict(module.named_parameters())
        assert any(not torch.equal(after[key], value) for key, value in before.items())
        assert all(torch.isfinite(p).all() for p in after.values())
        pictures = method.pictures(batch, output["views"])
        assert pictures and all(len(picture.values) >= 1 for picture in pictures.values())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_CAMS])
def test_cams_come_from_the_network_that_is_saved(tmp_path: Path, name: str) -> None:
    cfg = _config(tmp_path, name)
    saved = find_method(name)(cfg).networks()["state_dict"]
    network = find_method(name).inference_network(cfg)
    assert network.state_dict().keys() == saved.state_dict().keys()
    scores, logits = network.eval()(torch.rand(1, 3, 32, 32), torch.tensor([1, CLASSES]))
    assert scores.shape[:2] == (1, 2) and logits.shape == (1, 2)


def test_the_baseline_has_no_second_network_and_no_transfer(tmp_path: Path) -> None:
    from scripts import train

    cfg = _config(tmp_path, "cam", "train.epochs=2")
    assert train.run(cfg) == 0
    checkpoint = torch.load(Path(cfg.run_dir) / "model" / "last.pth", weights_only=True)
    assert "state_dict" in checkpoint and "local_dict" not in checkpoint
    assert "transfer" not in (Path(cfg.run_dir) / "log.txt").read_text()
    with pytest.raises(ValueError, match="cam.activation=relu"):
        find_method("cam").inference_network(_config(tmp_path, "cam", "cam.activation=softmax"))


def test_a_run_cannot_go_on_as_another_method(tmp_path: Path) -> None:
    from scripts import train

    train.run(_config(tmp_path, "cam", "train.epochs=1"))
    with pytest.raises(UserError, match="another method or stage"):
        train.run(_config(tmp_path, "l2g", "train.resume=auto"))


@pytest.mark.parametrize("name", ["nope", "../cam", "layers.crop", ""])
def test_a_method_without_a_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"method is '{name}', but there is no models/{name}.py")):
        find_method(name)


# method.py holds the base class, which has no name.
@pytest.mark.parametrize("name", ["cam_net", "method"])
def test_a_file_without_a_method_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"models/{name}.py holds no Method with name = '{name}'")):
        find_method(name)


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A method `other` with a section of its own, for the time of a test."""
    source = "from models.method import Method\n\n\nclass Other(Method):\n    name = 'other'\n"
    (tmp_path / "other.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield
    sys.modules.pop("models.other", None)
    vars(models).pop("other", None)


@pytest.mark.usefixtures("other")
def test_the_section_of_another_method_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("method: other\nother: {input_size: 32}\n", encoding="utf-8")
    assert load_config(own).settings.input_size == 32
    with pytest.raises(UserError, match="unknown key 'l2g'"):
        load_config(own, ["l2g.input_size=32"])
    with pytest.raises(UserError, match="unknown key 'other'"):
        load_config(own, ["method=l2g"])


def test_a_method_that_says_nothing_trains_all_it_has(tmp_path: Path) -> None:
    class Small(Method):
        name = "small"

        def __init__(self, cfg: Config) -> None:
            super().__init__(cfg)
            self.network = torch.nn.Linear(2, 3)

        def networks(self) -> dict[str, torch.nn.Module]:
            return {"state_dict": self.network}

    groups = Small(_config(tmp_path, "l2g")).parameter_groups()
    scales = {group["lr_scale"]: [tuple(p.shape) for p in group["params"]] for group in groups if group["params"]}
    assert scales == {1.0: [(3, 2)], 2.0: [(3,)]}

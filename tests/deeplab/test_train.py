"""Training as a whole: resuming, several processes, wrong input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.deeplab_schema import DeepLabConfig
from deeplab import crf, predict, train
from deeplab.network import build_deeplab
from deeplab.outputs import FINAL, logs_dir, models_dir, scores_dir
from deeplab.weights import load_initial
from tests.deeplab.tiny_deeplab import tiny_deeplab
from utils.config import save_config
from utils.errors import UserError
from utils.runtime.cards import read_cards
from utils.training.state import TrainState
from utils.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def _weights(cfg: DeepLabConfig, name: str = FINAL) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(models_dir(cfg) / name, weights_only=True)
    return weights


def _scalars(cfg: DeepLabConfig, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(logs_dir(cfg)))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_training_writes_weights_scalars_and_pictures(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "train.images_every=6")
    assert train.run(cfg) == 0
    names = {path.name for path in models_dir(cfg).glob("*.pth")}
    assert names == {"checkpoint_3.pth", "checkpoint_6.pth", FINAL, "last.pth"}
    assert all(key.startswith("base.") for key in _weights(cfg))
    (card,) = read_cards(Path(cfg.exp.output_dir))
    assert (card.key, card.images, card.settings["solver.iter_max"]) == ("deeplab_train", 6 * 2 * 4, 6)
    losses = _scalars(cfg, "loss/train")
    assert all(0 <= value <= 1 for _, value in _scalars(cfg, "train/loader_wait"))
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[-1][1] < losses[0][1]
    rates = [_scalars(cfg, f"lr/group_{i}")[0][1] for i in range(3)]
    np.testing.assert_allclose(rates, np.array([1, 10, 20]) * 0.0005 * (5 / 6) ** 0.9, rtol=1e-5)
    events = EventAccumulator(str(logs_dir(cfg)), size_guidance={"images": 0})
    events.Reload()
    assert {"train/input", "train/label", "train/prediction"} <= set(events.Tags()["images"])


def test_the_average_over_steps_is_the_result(tmp_path: Path) -> None:
    settings = ("solver.iter_save=1", "train.save_every=1")
    plain = tiny_deeplab(tmp_path, "exp.id=plain", *settings)
    averaged = tiny_deeplab(tmp_path, "exp.id=averaged", "train.average_weights=0.25", *settings)
    train.run(plain)
    train.run(averaged)
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 7):
        decay = min(0.25, step / (9 + step))
        for key, value in _weights(plain, f"checkpoint_{step}.pth").items():
            before = expected.get(key)
            moves = before is not None and step > 1 and value.is_floating_point() and "running_" not in key
            expected[key] = torch.lerp(before, value, 1 - decay) if moves and before is not None else value
        if step == 1:  # the first step's average still holds the random start: taken from the file
            parameters = _weights(averaged, "checkpoint_1.pth")
            assert any(not torch.equal(parameters[key], value) for key, value in expected.items())
            expected = parameters
        found = _weights(averaged, f"checkpoint_{step}.pth")
        assert all(torch.allclose(found[key], value, rtol=1e-4, atol=1e-7) for key, value in expected.items()), step
    last = torch.load(models_dir(averaged) / "last.pth", weights_only=True)
    raw = _weights(plain)
    assert all(torch.equal(last["state_dict"][key], value) for key, value in raw.items())
    final = _weights(averaged)
    assert all(torch.equal(last["average"][key], value) for key, value in final.items())
    assert any(not torch.equal(final[key], value) for key, value in raw.items())


@pytest.mark.parametrize("further", ["model.freeze_bn=true", "model.freeze_bn=false", "train.average_weights=0.9"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, further: str) -> None:
    whole = tiny_deeplab(tmp_path, "exp.id=whole", further, "solver.lr=1e-6")
    train.run(whole)
    parts = tiny_deeplab(tmp_path, "exp.id=parts", "train.resume=auto", further, "solver.lr=1e-6")
    step = Trainer.step

    def interrupted(self: Trainer, loss: torch.Tensor, ids: list[str]) -> None:
        step(self, loss, ids)
        if self.course.plan.counter(self.state.position) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train.run(parts) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert not (models_dir(parts) / FINAL).exists()
    assert train.run(parts) == 0
    first, second = _weights(whole), _weights(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert _scalars(whole, "loss/train") == _scalars(parts, "loss/train")


def test_a_training_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    cfg = tiny_deeplab(tmp_path, "train.resume=auto", "solver.iter_max=3")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainState, "save", killed)
        train.run(cfg)
    first, last = models_dir(cfg) / "checkpoint_3.pth", models_dir(cfg) / "last.pth"
    made = first.read_bytes()
    assert train.run(cfg) == 0 and first.read_bytes() == made
    last.unlink()  # of a training that had one: nothing says that it may be replaced
    with pytest.raises(UserError, match="holds an earlier training"):
        train.run(cfg)


def test_score_files_name_the_init_and_whether_it_has_seen_masks(tmp_path: Path) -> None:
    """Also of a run that was continued, when the init file is gone; and nothing is made up for weights from elsewhere."""
    init = tmp_path / "init.pth"
    torch.save(build_deeplab(tiny_deeplab(tmp_path)).base.state_dict(), init)
    settings = (f"model.init_model={init}", "train.resume=auto", "solver.batch_size.train=2", "solver.iter_size=1")
    train.run(tiny_deeplab(tmp_path, *settings, "solver.iter_max=1"))
    init.unlink()
    cfg = tiny_deeplab(tmp_path, *settings, "solver.iter_max=2")
    train.run(cfg)
    expected = f"{init} (segmentation weights)"
    assert (predict.run(cfg)["Init"], crf.run(cfg)["Init"]) == (expected, expected)
    for name in ("scores", "scores_crf"):
        assert json.loads((scores_dir(cfg) / f"{name}.json").read_text())["Init"] == expected
        assert f"init: {expected}" in (scores_dir(cfg) / f"{name}.txt").read_text()
    assert [dict(card.facts)["init"] for card in read_cards(Path(cfg.exp.output_dir))] == [expected] * 3
    elsewhere = tmp_path / "elsewhere" / "w.pth"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes((models_dir(cfg) / FINAL).read_bytes())
    assert predict.run(cfg, elsewhere)["Init"].startswith("unknown")
    told = load_initial(build_deeplab(cfg), models_dir(cfg) / FINAL, []).init
    assert told.endswith(f"(segmentation weights; its own init: {expected})")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Frozen normalisation: otherwise statistics follow each process's share.
    frozen = (
        "model.freeze_bn=true",
        "solver.batch_size.train=5",
        "solver.lr=1e-6",
    )  # the last mini-batch leaves one process idle
    alone = tiny_deeplab(tmp_path, "exp.id=alone", *frozen)
    train.run(alone)
    both = tiny_deeplab(tmp_path, "exp.id=both", *frozen)
    path = tmp_path / "both.yaml"
    save_config(both, path)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "deeplab", "train", "-c", str(path)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    first, second = _scalars(alone, "loss/train"), _scalars(both, "loss/train")
    np.testing.assert_allclose([v for _, v in first], [v for _, v in second], rtol=2e-4)
    assert len(first) == 6


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    train.run(tiny_deeplab(tmp_path, "solver.iter_max=1"))
    with pytest.raises(UserError, match=r"iter_size=2.*same values"):
        train.run(tiny_deeplab(tmp_path, "train.resume=auto", "solver.iter_size=1"))


@pytest.mark.parametrize("override", ["solver.lr=0.1", "solver.weight_decay=0.1", "model.width=0.125", "dataset.scales=[1.0]"])
def test_every_setting_that_cannot_change_is_compared(tmp_path: Path, override: str) -> None:
    train.run(tiny_deeplab(tmp_path, "solver.iter_max=1"))
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"was trained with {key}=.*, not {key}=") as caught:
        train.run(tiny_deeplab(tmp_path, "train.resume=auto", "solver.iter_max=2", override))
    assert "\n" not in str(caught.value)
    assert train.run(tiny_deeplab(tmp_path, "train.resume=auto", "solver.iter_max=2", "solver.iter_tb=2")) == 0


def test_a_finished_training_is_not_written_over(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "solver.iter_max=1")
    train.run(cfg)
    before = {path.name: path.read_bytes() for path in models_dir(cfg).glob("*.pth")}
    with pytest.raises(UserError, match=r"train.resume=auto, .*another exp.id, .*train.overwrite=true"):
        train.run(tiny_deeplab(tmp_path, "solver.iter_max=1", "seed=4"))
    assert {path.name: path.read_bytes() for path in models_dir(cfg).glob("*.pth")} == before
    assert train.run(tiny_deeplab(tmp_path, "solver.iter_max=1", "seed=4", "train.overwrite=true")) == 0
    aside = models_dir(cfg).with_name(f"{models_dir(cfg).name}.old1")
    assert {path.name: path.read_bytes() for path in aside.glob("*.pth")} == before
    assert (logs_dir(cfg).with_name("tiny.old1") / "config.yaml").is_file()


def test_ground_truth_is_not_trained_on_by_accident(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fully_supervised=true"):
        train.run(tiny_deeplab(tmp_path, "dataset.label_dir="))
    assert train.run(tiny_deeplab(tmp_path, "dataset.label_dir=", "fully_supervised=true", "solver.iter_max=1")) == 0


def test_an_all_ignored_batch_changes_nothing_but_by_decay(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "solver.weight_decay=0", "model.freeze_bn=true")
    pseudo = tmp_path / "data" / "pseudo"
    pseudo.unlink()
    shutil.copytree(tmp_path / "data" / "made", pseudo)
    for path in pseudo.glob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size, 255).save(path)
    assert train.run(cfg) == 0
    assert {value for _, value in _scalars(cfg, "loss/train")} == {0.0}
    assert all(bool(torch.isfinite(value).all()) for value in _weights(cfg).values())


def _spoil(tmp_path: Path, name: str, image: Image.Image | None) -> DeepLabConfig:
    cfg = tiny_deeplab(tmp_path)
    pseudo = tmp_path / "data" / "pseudo"
    pseudo.unlink()
    shutil.copytree(tmp_path / "data" / "made", pseudo)
    (pseudo / name).unlink()
    if image is not None:
        image.save(pseudo / name)
    return cfg


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"img_003\.png holds the value 9; expected 0 to 3 .*dataset\.n_classes"):
        train.run(_spoil(tmp_path / "a", "img_003.png", Image.new("L", (48, 40), 9)))
    with pytest.raises(UserError, match=r"img_002\.png is 48x39 pixels, expected 48x40"):
        train.run(_spoil(tmp_path / "b", "img_002.png", Image.new("L", (48, 39))))
    with pytest.raises(UserError, match=r"1 of 6 label map files are missing .*img_001\.png"):
        train.run(_spoil(tmp_path / "c", "img_001.png", None))

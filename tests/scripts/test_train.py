"""Training as a program: exact resuming, several processes, signals, bad input."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from configs.schema import Config
from scripts import make_cams
from scripts import train as train_l2g
from tests.tiny_data import tiny_config
from utils.config import save_config
from utils.errors import UserError
from utils.runtime.cards import read_cards
from utils.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
BATCHES = 3  # of an epoch of the tiny set: 6 images, 2 a batch


def _weights(cfg: Config) -> dict[str, torch.Tensor]:
    state = torch.load(Path(cfg.run_dir) / "model" / "last.pth", weights_only=True)
    return {f"{part}.{k}": v for part in ("state_dict", "local_dict") for k, v in state[part].items()}


def _losses(cfg: Config) -> list[str]:
    lines = (Path(cfg.run_dir) / "log.txt").read_text().splitlines()
    return [line.split(" lr ")[1].split(" images_per")[0] for line in lines if " lr " in line]


def _command(cfg: Config, path: Path, *overrides: str) -> list[str]:
    save_config(cfg, path)
    return [sys.executable, "-m", "scripts.train", "--config", str(path), *overrides]


def test_resumed_run_equals_uninterrupted_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (
        "train.classify_epochs=1",
        "train.epochs=3",
        "train.shuffle=true",
        "model.dropout=true",
        "model.freeze_bn=false",
    )
    whole = tiny_config(tmp_path, f"run_dir={tmp_path / 'whole'}", *settings)
    assert train_l2g.run(whole) == 0
    # Stopped in the middle of every epoch in turn and at the end of the classification, continued from there.
    parts = tiny_config(tmp_path, f"run_dir={tmp_path / 'parts'}", *settings, "train.resume=auto")
    for stop_at in (2, 3, 4, 8):
        _stop_after(monkeypatch, stop_at)
        assert train_l2g.run(parts) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert train_l2g.run(parts) == 0
    expected, found = _weights(whole), _weights(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def _stop_after(monkeypatch: pytest.MonkeyPatch, counter: int) -> None:
    """Raise a real SIGTERM in this process once the run's batch counter reaches `counter`."""
    step = Trainer.step

    def step_and_stop(self: Trainer, loss: torch.Tensor, ids: list[str]) -> None:
        step(self, loss, ids)
        if self.state.position == counter:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", step_and_stop)


def test_two_processes_log_the_losses_of_one(tmp_path: Path) -> None:
    # Three images a step on two processes: shares of two and one; seven images: a last batch with an idle process.
    # A low rate: the winner map is discrete, so rounding differences must not grow into another winner.
    settings = ("train.batch_size=3", "train.epochs=1", "train.log_every=1", "threads=1", "train.lr=1e-6")
    one = tiny_config(tmp_path, f"run_dir={tmp_path / 'one'}", *settings)
    two = tiny_config(tmp_path, f"run_dir={tmp_path / 'two'}", *settings)
    _add_image(tmp_path / "data")
    train_l2g.run(one)
    command = _command(two, tmp_path / "two.yaml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command[1:]]
    subprocess.run(launch, cwd=ROOT, check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert len(_losses(one)) == 3
    assert _losses(one) == _losses(two)
    expected, found = _weights(one), _weights(two)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def _add_image(root: Path) -> None:
    for folder, suffix in (("JPEGImages", "jpg"), ("Sal", "png"), ("SegmentationClassAug", "png")):
        (root / folder / f"img_100.{suffix}").write_bytes((root / folder / f"img_000.{suffix}").read_bytes())
    lines = (root / "train_cls.txt").read_text().splitlines()
    (root / "train_cls.txt").write_text("\n".join([*lines, lines[0].replace("img_000", "img_100")]) + "\n")


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    settings = ("train.epochs=1", "train.momentum=0", "train.weight_decay=0")
    large = tiny_config(tmp_path, f"run_dir={tmp_path / 'large'}", "train.batch_size=4", *settings)
    small = tiny_config(tmp_path, f"run_dir={tmp_path / 'small'}", "train.batch_size=2", "train.iter_size=2", *settings)
    train_l2g.run(large)
    train_l2g.run(small)
    found = _weights(small)
    for key, value in _weights(large).items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_sigterm_saves_and_leaves(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.epochs=500")
    process = subprocess.Popen(_command(cfg, tmp_path / "cfg.yaml"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1 " in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    state = torch.load(Path(cfg.run_dir) / "model" / "last.pth", weights_only=True)
    assert state["position"] >= BATCHES


def _launched(cfg: Config, path: Path) -> subprocess.Popen[str]:
    """Return a training on two processes, as the front door starts it, that is in its epoch 1."""
    program = [str(ROOT / "scripts" / "launch.sh"), *_command(cfg, path)[2:]]
    environment = {**os.environ, "PYTHON": sys.executable, "NPROC": "2", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(program, env=environment, text=True, start_new_session=True, stdout=-1, stderr=-1)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1 " in line:
            break
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_save_and_leave_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    """Job managers and terminals send their signal to all, and torchrun passes its own on: it comes twice."""
    process = _launched(tiny_config(tmp_path, "train.epochs=500", "threads=1"), tmp_path / "cfg.yaml")
    os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "stopped by a signal" in out and "Traceback" not in errors
    assert torch.load(tmp_path / "run" / "model" / "last.pth", weights_only=True)["position"] >= BATCHES


def test_processes_of_a_killed_launcher_leave_and_the_folder_is_free(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.epochs=100000", "threads=1", "data.workers=1")
    process = _launched(cfg, tmp_path / "cfg.yaml")
    process.kill()
    try:
        process.communicate(timeout=60)  # ends with the last process that could write there
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    last = torch.load(tmp_path / "run" / "model" / "last.pth", weights_only=True)
    again = tiny_config(tmp_path, f"train.epochs={last['position'] // BATCHES + 1}", "train.resume=auto")
    assert train_l2g.run(again) == 0


def test_kill_leaves_a_checkpoint_that_resumes(tmp_path: Path) -> None:
    """kill -9 while checkpoints are written after every batch: whatever lies there loads."""
    cfg = tiny_config(tmp_path, "train.epochs=500", "train.save_every=1")
    command = _command(cfg, tmp_path / "cfg.yaml")
    for delay in (0.05, 0.11):
        process = subprocess.Popen([*command, "train.resume=auto"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        # At the second batch's line the first one's checkpoint is there.
        batches = (line for line in process.stdout if " batch " in line and " lr " in line)
        next(batches), next(batches)
        time.sleep(delay)
        process.kill()
        process.wait(timeout=60)
    last = Path(cfg.run_dir) / "model" / "last.pth"
    state = torch.load(last, weights_only=True)
    finished = tiny_config(tmp_path, f"train.epochs={state['position'] // BATCHES + 1}", "train.resume=auto")
    assert train_l2g.run(finished) == 0
    assert not list(last.parent.glob("*.tmp*"))


def test_not_finite_loss_names_the_images_and_keeps_the_weights(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.lr=1e30", "train.epochs=1")
    with pytest.raises(UserError, match=r"on images img_00\d"):
        train_l2g.run(cfg)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.epochs=500")
    command = _command(cfg, tmp_path / "cfg.yaml")
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    first.kill()
    first.wait(timeout=60)
    assert second.returncode == 2
    assert second.stderr.strip().startswith("error: ")
    assert "\n" not in second.stderr.strip()


def test_writes_what_it_says(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.images_every=2", "train.keep_epochs=[0]")
    train_l2g.run(cfg)
    run = Path(cfg.run_dir)
    names = {p.name for p in (run / "model").iterdir()}
    assert {"last.pth", "last.pth.previous", "final.pth", "epoch_0.pth"} <= names
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["epochs"] == 2
    (card,) = read_cards(run)
    assert (card.key, card.images, card.settings["train.epochs"]) == ("training", 6, 2)
    assert card.seconds > 0
    final = torch.load(run / "model" / "final.pth", weights_only=True)
    assert {"conv1a.weight", "fc8.weight", "f9.weight"} <= set(final)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    assert {
        "train/kd",
        "train/cls_local",
        "train/cls_global",
        "train/lr",
        "train/images_per_second",
        "train/loader_wait",
    } <= set(events.Tags()["scalars"])
    shown = {"input", "saliency", "local_cam", "target", "global_softmax", "winner"}
    assert {f"train/{name}" for name in shown} <= set(events.Tags()["images"])


def test_published_names_and_layout_on_request(tmp_path: Path) -> None:
    """As the published script names and fills its files; CAMs from one equal those from ours."""
    cfg = tiny_config(tmp_path, "train.published_name=mscoco", "train.keep_epochs=[0]", "train.epochs=3", "cam.scales=[1.0]")
    train_l2g.run(cfg)
    model = Path(cfg.run_dir) / "model"
    assert {path.name for path in model.glob("mscoco*")} == {"mscoco_epoch_0.pth", "mscoco_epoch_2.pth"}
    state = torch.load(model / "mscoco_epoch_2.pth", weights_only=True)
    assert state.keys() == {"epoch", "global_counter", "state_dict", "local_dict", "optimizer"}
    assert (state["epoch"], state["global_counter"]) == (2, 9)
    ours = torch.load(model / "final.pth", weights_only=True)
    assert state["state_dict"].keys() == {f"module.{key}" for key in ours}
    folders = [tmp_path / "from_theirs", tmp_path / "from_ours"]
    for folder, file in zip(folders, ("mscoco_epoch_2.pth", "final.pth"), strict=True):
        cfg.cam.checkpoint, cfg.cam.dir = str(model / file), str(folder / "cams")
        make_cams.run(cfg)
    theirs, mine = ({path.name: path.read_bytes() for path in (folder / "cams").glob("*.png")} for folder in folders)
    assert theirs and theirs == mine


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.published_name=a/b", "bare name"),
        ("model.checkpoint_activations=true model.freeze_bn=false", "needs model.freeze_bn=true"),
        ("model.checkpoint_activations=true model.backbone=vgg16", "is for resnet38, not vgg16"),
        ("train.learning_rate=1", "unknown key 'train.learning_rate'"),
        ("train.lr=fast", "train.lr"),
        ("model.backbone=resnet39", "resnet38"),
        ("data.train_list=missing.txt", "missing.txt"),
        ("data.num_classes=1", "out of range"),
        ("l2g.crop_size=64", "l2g.crop_size is 64"),
        ("train.schedule=cosine", "expected one of step, poly"),
        ("train.resume=nowhere.pth", "nowhere.pth"),
    ],
)
def test_wrong_settings_get_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train_l2g.run(tiny_config(tmp_path, *override.split()))
    assert "\n" not in str(caught.value)

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
from scripts.build import build_inference_network
from tests.tiny_data import tiny_config
from utils.config import save_config
from utils.errors import UserError
from utils.runtime.cards import read_cards
from utils.training.trainer import Trainer
from utils.training.weights import published_state, save_weights

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


@pytest.mark.parametrize(("accumulate", "weight"), [("mean", 10), ("sum", 20)])
def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, accumulate: str, weight: float) -> None:
    """With L2G's transfer loss as heavy or, as published, heavier by the number of batches."""
    settings = ("train.epochs=1", "train.momentum=0", "train.weight_decay=0", f"l2g.kd_accumulate={accumulate}")
    large = tiny_config(tmp_path, f"run_dir={tmp_path / 'large'}", "train.batch_size=4", f"l2g.kd_weight={weight}", *settings)
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


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_rate_far_too_high_leaves_no_checkpoint(tmp_path: Path) -> None:
    """After the first step the weights are finite and worth nothing; the loss that would tell has not been computed."""
    with pytest.raises(UserError, match="diverged at epoch 0 batch 1/3: the largest weight is"):
        train_l2g.run(tiny_config(tmp_path, "train.lr=1e20", "train.save_every=1"))
    assert not list((tmp_path / "run" / "model").glob("*.pth*"))


def test_a_finished_run_is_not_written_over(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, "train.epochs=1")
    train_l2g.run(cfg)
    run = Path(cfg.run_dir)
    before = _files(run / "model")
    ways = r"last.pth.*train.resume=auto, .*another name, .*train.overwrite=true, which first renames .*run"
    for again in ((), ("seed=5",), ("train.resume=elsewhere.pth",)):
        with pytest.raises(UserError, match=ways):
            train_l2g.run(tiny_config(tmp_path, "train.epochs=1", *again))
    assert _files(run / "model") == before
    for number in (1, 2):
        assert train_l2g.run(tiny_config(tmp_path, "train.epochs=1", "seed=5", "train.overwrite=true")) == 0
        aside = run.with_name(f"run.old{number}")
        assert (aside / "config.yaml").is_file() and (aside / "cards" / "training.json").is_file()
        if number == 1:
            assert _files(aside / "model") == before
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 5


def test_what_a_run_needs_is_not_set_aside(tmp_path: Path) -> None:
    """A data set, or the working directory, inside of the run's folder."""
    cfg = tiny_config(tmp_path, "train.epochs=1", f"run_dir={tmp_path}")
    train_l2g.run(cfg)
    before = _files(tmp_path / "model")
    with pytest.raises(UserError, match=r"cannot be set aside, for .*data lies in it"):
        train_l2g.run(tiny_config(tmp_path, "train.epochs=1", f"run_dir={tmp_path}", "train.overwrite=true"))
    assert _files(tmp_path / "model") == before


@pytest.mark.parametrize(
    "override",
    [
        "train.weight_decay=0.1", "train.lr_head_factor=3", "train.lr=0.5", "train.iter_size=2", "train.shuffle=true",
        "model.width=0.125", "model.freeze_bn=false", "l2g.kd_weight=3", "l2g.paste.probability=0.5", "data.mean=[0.1,0.2,0.3]",
        "data.train_list", "seed=3", "l2g.paste.bank=elsewhere", "train.first_epoch=1", "model.pretrained=elsewhere.pth",
    ],
)  # fmt: skip
def test_resuming_with_other_settings_is_refused_by_name(tmp_path: Path, override: str) -> None:
    cfg = tiny_config(tmp_path, "train.epochs=1")
    train_l2g.run(cfg)
    before = _files(Path(cfg.run_dir) / "model") | _files(Path(cfg.run_dir))
    key, _, value = override.partition("=")
    if not value:  # the same file with other content
        _add_image(tmp_path / "data")
    changed = tiny_config(tmp_path, "train.epochs=3", "train.resume=auto", *([override] if value else []))
    with pytest.raises(UserError, match=rf"was trained with {key}=.*, not {key}=") as caught:
        train_l2g.run(changed)
    assert "\n" not in str(caught.value)
    after = _files(Path(cfg.run_dir) / "model") | _files(Path(cfg.run_dir))
    assert {**after, "log.txt": b"", ".lock": b""} == {**before, "log.txt": b"", ".lock": b""}


def test_resuming_takes_and_logs_what_may_change(tmp_path: Path) -> None:
    train_l2g.run(tiny_config(tmp_path, "train.epochs=1", f"model.pretrained={_start(tmp_path)}"))
    (tmp_path / "start.pth").unlink()
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "run").rename(tmp_path / "renamed")
    settings = (
        "train.epochs=2",
        "train.log_every=3",
        "data.workers=1",
        "train.save_every=7",
        "threads=1",
        "train.keep_epochs=[1]",
    )
    moved = (f"data.root={tmp_path / 'moved'}", f"run_dir={tmp_path / 'renamed'}", f"model.pretrained={tmp_path / 'start.pth'}")
    (tmp_path / "data").mkdir()
    assert train_l2g.run(tiny_config(tmp_path, *settings, *moved, "train.resume=auto")) == 0
    log = (tmp_path / "renamed" / "log.txt").read_text()
    told = {line.partition("other than before: ")[2] for line in log.splitlines() if "other than before" in line}
    assert {"train.epochs=2, it was 1", "data.workers=1, it was 0", "train.log_every=3, it was 1"} <= told
    assert not any("resume" in line for line in told)
    assert (tmp_path / "renamed" / "model" / "epoch_1.pth").is_file()
    assert yaml.safe_load((tmp_path / "renamed" / "config.yaml").read_text())["train"]["epochs"] == 2


def _start(tmp_path: Path) -> Path:
    """Write initial weights of the tiny network."""
    network = build_inference_network(tiny_config(tmp_path))
    save_weights(published_state(network), tmp_path / "start.pth")
    return tmp_path / "start.pth"


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
        ("model.checkpoint_activations=true model.backbone=vgg16", "is for ResNets, not vgg16"),
        ("train.learning_rate=1", "unknown key 'train.learning_rate'"),
        ("train.lr=fast", "train.lr"),
        ("model.backbone=resnet39", "resnet38"),
        ("data.train_list=missing.txt", "missing.txt"),
        ("data.num_classes=1", "out of range"),
        ("l2g.crop_size=64", "l2g.crop_size is 64"),
        ("train.schedule=cosine", "expected one of step, poly"),
        ("train.resume=nowhere.pth", "nowhere.pth"),
        ("device=meta", "expected auto, cpu"),
    ],
)
def test_wrong_settings_get_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train_l2g.run(tiny_config(tmp_path, *override.split()))
    assert "\n" not in str(caught.value)

"""CDL's losses, label refresh and steps against the published ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from configs.deeplab_schema import DeepLabConfig
from deeplab import refresh as refresh_command
from deeplab import train
from deeplab.affinity import affinity_losses, propagate, similarity
from deeplab.cdl import RefreshRule, refresh
from deeplab.losses import cross_entropies, dice_losses
from deeplab.network import build_deeplab
from deeplab.outputs import FINAL, logs_dir, models_dir, refreshed_dir
from deeplab.weights import load_checkpoint, load_initial
from tests.deeplab.tiny_deeplab import tiny_deeplab
from tests.tiny_data import CLASSES
from utils.config import save_config
from utils.data.images import read_label_map
from utils.errors import UserError
from utils.report.figures import read_curves
from utils.runtime.cards import read_cards
from utils.runtime.processes import Dist
from utils.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "cdl"
ALONE = Dist(0, 1, 0, torch.device("cpu"))
SHARES = ("share/refreshed", "share/right_given", "share/right_refreshed")
COSINE = {"b": True, "e": False}
NEGATIVE = {"b": 1.0, "e": 2.0}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    loaded = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "losses_and_refresh.npz").items()}
    return {k: v.long() if v.dtype == torch.uint8 else v for k, v in loaded.items()}


@pytest.mark.parametrize("variant", ["b", "e"])
def test_affinity_and_its_loss_equal_published(golden: dict[str, Tensor], variant: str) -> None:
    features, labels = golden["feat"].clone().requires_grad_(), golden["labels"]
    whole = torch.stack([similarity(f, f, cosine=COSINE[variant]) for f in golden["feat"].flatten(2)])
    torch.testing.assert_close(whole, golden[f"affinity_{variant}"], rtol=1e-5, atol=1e-5)
    loss = affinity_losses([features], [labels], cosine=COSINE[variant], negative_weight=NEGATIVE[variant])
    torch.testing.assert_close(loss[0].float(), golden[f"aff_loss_{variant}"], rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    torch.testing.assert_close(features.grad, golden[f"aff_loss_{variant}_grad_feat"], rtol=1e-4, atol=1e-5)
    other = "e" if variant == "b" else "b"
    cross = affinity_losses([features], [labels], cosine=COSINE[other], negative_weight=NEGATIVE[variant])
    torch.testing.assert_close(cross[0].float(), golden[f"aff_loss_{variant}_on_{other}_affinity"], rtol=1e-5, atol=1e-5)
    nothing = affinity_losses([features], [torch.full_like(labels, 255)], cosine=True, negative_weight=1.0)
    assert nothing.item() == 0


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("cosine", [True, False])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, cosine: bool, halves: int) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 6)).where(torch.rand(2, 5, 6) > 0.2, 255)
    features = torch.randn(2 * halves, 4, 5, 6, dtype=torch.float64)
    whole = features.clone().requires_grad_()
    a = torch.stack([similarity_of(f, cosine) for f in whole.flatten(2)]).unflatten(0, (halves, 2)).mean(0)
    flat = labels.flatten(1)
    valid = (flat[:, :, None] != 255) & (flat[:, None] != 255)
    same = flat[:, :, None] == flat[:, None]
    positive, negative = valid & same, valid & ~same
    expected = -(a + 1e-5).log()[positive].sum() / (positive.sum() + 1e-5)
    expected = expected - 2 * (1 - a + 1e-5).log()[negative].sum() / (negative.sum() + 1e-5)
    expected.backward()
    monkeypatch.setattr("deeplab.affinity.BLOCK_ELEMENTS", 64)
    blocked = features.clone().requires_grad_()
    loss = affinity_losses([blocked], [labels], cosine=cosine, negative_weight=2.0)
    loss.sum().backward()
    torch.testing.assert_close(loss[0], expected)
    torch.testing.assert_close(blocked.grad, whole.grad)
    scores = torch.randn(3, 30, dtype=torch.float64)
    w = (similarity_of(features.flatten(2)[0], cosine) - 1).exp()
    torch.testing.assert_close(
        propagate(scores, features[0].flatten(1), features[0].flatten(1), cosine=cosine), scores @ w / (w.sum(0) + 1e-5)
    )


def similarity_of(f: Tensor, cosine: bool) -> Tensor:
    """The plain form of `similarity`, differentiable."""
    norms = f.norm(dim=0)
    products = f.T @ f
    return torch.sigmoid(products / (torch.outer(norms, norms) + 1e-5) if cosine else products)


def test_losses_equal_published(golden: dict[str, Tensor]) -> None:
    for name in ("dice", "balanced_ce", "plain_ce"):
        logits, labels = golden["logit_1"].clone().requires_grad_(), golden["labels"].clone()
        if name == "dice":
            loss = dice_losses([logits], [labels], counts_ignored=True, share=1.0, place=ALONE)[0]
        else:
            loss = cross_entropies([logits], [labels], balanced=name == "balanced_ce")[0]
        torch.testing.assert_close(loss, golden[name], rtol=1e-5, atol=1e-5)
        assert torch.equal(labels, golden["labels"])  # the published Dice overwrote them
        if f"{name}_grad" in golden:
            loss.backward()
            torch.testing.assert_close(logits.grad, golden[f"{name}_grad"], rtol=1e-4, atol=1e-6)
    assert golden["balanced_ce_no_foreground"].isnan()  # mended: the missing half counts 0
    background = golden["labels"].clamp_max(0)
    assert cross_entropies([golden["logit_1"]], [background], balanced=True)[0].isfinite()


def test_what_is_said_at_ignored_pixels_need_not_count(golden: dict[str, Tensor]) -> None:
    logits, labels = golden["logit_1"].clone().requires_grad_(), golden["labels"]
    dice_losses([logits], [labels], counts_ignored=False, share=1.0, place=ALONE).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad.movedim(1, 3)[labels == 255] == 0).all())


@pytest.mark.parametrize("variant", ["b", "e"])
def test_refreshed_labels_equal_published(golden: dict[str, Tensor], variant: str) -> None:
    experts, labels = (golden["logit_1"], golden["logit_2"]), golden["labels"]
    for suffix, first, second in (("", 0.9, 0.9), ("_main95_aux80", 0.95, 0.8)):
        found = refresh(*experts, labels, golden["feat"], RefreshRule(first, second, COSINE[variant]))
        assert torch.equal(found.labels, golden[f"refresh_{variant}_label{suffix}"])
        assert torch.equal(found.credible, golden[f"refresh_{variant}_credible{suffix}"])
        assert found.credible[0, 3, 3] == 255  # both saturate there
    ties = refresh(*experts, labels, golden["feat"], RefreshRule(0.9, 0.9, COSINE[variant], credit_ties=True))
    assert (ties.credible[0, 3, 3] != 255) == bool((experts[0].argmax(1) == experts[1].argmax(1))[0, 3, 3])
    kept = refresh(*experts, labels, golden["feat"], RefreshRule(0.9, 0.9, COSINE[variant], ignored=False))
    assert bool((kept.labels[labels == 255] == 255).all())
    assert bool((kept.credible[labels == 255] == 255).all())


def tiny_cdl(tmp_path: Path, variant: str, *overrides: str) -> DeepLabConfig:
    """Return a configuration that trains experts in seconds; labels are refreshed from the third of six steps on."""
    return tiny_deeplab(
        tmp_path, f"method=cdl_{variant}", "thresholds.scales=[0.75]", "thresholds.start_ration=0.34", "thresholds.main_th=0.4",
        "thresholds.aux_th=0.4", *overrides,
    )  # fmt: skip


def weights_of(cfg: DeepLabConfig) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(models_dir(cfg) / FINAL, weights_only=True)
    return weights


def events_of(cfg: DeepLabConfig) -> EventAccumulator:
    events = EventAccumulator(str(logs_dir(cfg)), size_guidance={"images": 0})
    events.Reload()
    return events


def scalars(cfg: DeepLabConfig, tag: str) -> list[float]:
    return [event.value for event in events_of(cfg).Scalars(tag)]


@pytest.mark.parametrize("variant", ["b", "e"])
def test_training_resumes_bit_for_bit_and_shows_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    whole = tiny_cdl(tmp_path, variant, "exp.id=whole", "train.images_every=6", "cdl.train_affinity=true")
    assert train.run(whole) == 0
    events = events_of(whole)
    experts = ["expert_1", "expert_2", *(["expert_3"] if variant == "e" else [])]
    assert {f"train/{n}" for n in ("input", "label", "refreshed", *experts)} <= set(events.Tags()["images"])
    losses = {"loss/train", *(f"train/{n}" for n in ("affinity", *SHARES, *experts))}
    assert losses <= set(events.Tags()["scalars"])
    assert set(read_curves(logs_dir(whole), "CDL").shares) == {name.removeprefix("share/") for name in SHARES}
    refreshed = scalars(whole, "train/share/refreshed")
    assert refreshed[:2] == [0, 0]
    assert refreshed[-1] > 0
    assert all(value == 1 for value in scalars(whole, "train/share/right_given"))
    parts = tiny_cdl(tmp_path, variant, "exp.id=parts", "train.resume=auto", "cdl.train_affinity=true")
    step = Trainer.step

    def interrupted(self: Trainer, loss: Tensor, ids: list[str]) -> None:
        step(self, loss, ids)
        if self.course.plan.counter(self.state.position) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train.run(parts) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert train.run(parts) == 0
    first, second = weights_of(whole), weights_of(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert scalars(whole, "loss/train") == scalars(parts, "loss/train")
    with pytest.raises(UserError, match=r"thresholds\.main_th=0\.4, not thresholds\.main_th=0\.5"):
        train.run(
            tiny_cdl(
                tmp_path, variant, "exp.id=whole", "train.resume=auto", "cdl.train_affinity=true", "thresholds.main_th=0.5"
            )
        )


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Five images leave one process idle in one mini-batch of each pass; dropout of the affinity head is drawn per process.
    common = ("model.freeze_bn=true", "solver.batch_size.train=5", "solver.lr=1e-6", "thresholds.aff_loss_weight=0")
    alone = tiny_cdl(tmp_path, "e", "exp.id=alone", *common)
    train.run(alone)
    both = tiny_cdl(tmp_path, "e", "exp.id=both", *common)
    save_config(both, tmp_path / "both.yaml")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "deeplab", "train"]
    command += ["-c", str(tmp_path / "both.yaml")]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for tag in ("loss/train", "train/expert_1", "train/expert_2", "train/expert_3", *(f"train/{n}" for n in SHARES)):
        np.testing.assert_allclose(scalars(alone, tag), scalars(both, tag), rtol=2e-4, atol=1e-4)
    first, second = weights_of(alone), weights_of(both)
    assert all(torch.allclose(first[key].float(), second[key].float(), atol=1e-5) for key in first)


def test_weights_of_another_method_are_told_apart(tmp_path: Path) -> None:
    files = {}
    for method in ("plain", "cdl_b", "cdl_e"):
        files[method] = tmp_path / f"{method}.pth"
        torch.save(build_deeplab(tiny_deeplab(tmp_path, f"method={method}")).state_dict(), files[method])
    for method, path in files.items():
        for other in files:
            network = build_deeplab(tiny_deeplab(tmp_path, f"method={other}"))
            if method == other:
                load_checkpoint(network, path)
                continue
            with pytest.raises(UserError, match=rf"is of method={method}, .*set method={method}"):
                load_checkpoint(network, path)
    said = load_initial(build_deeplab(tiny_deeplab(tmp_path, "method=cdl_e")), files["plain"], []).told
    assert "head starts at random" in said
    said = load_initial(build_deeplab(tiny_deeplab(tmp_path, "method=cdl_e")), files["cdl_e"], []).told
    assert "head starts from it as well" in said


def test_classes_beyond_voc_make_affinity_targets(golden: dict[str, Tensor]) -> None:
    labels = torch.where(golden["labels"] == 255, 255, golden["labels"] + 76)  # COCO's 81: the published loss raised here
    loss = affinity_losses([golden["feat"]], [labels], cosine=True, negative_weight=1.0)
    torch.testing.assert_close(loss[0].float(), golden["aff_loss_b"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["b", "e"])
def test_refreshed_labels_are_written_scored_and_trained_on(tmp_path: Path, variant: str) -> None:
    cfg = tiny_cdl(tmp_path, variant)
    train.run(cfg)
    found = refresh_command.run(cfg)
    assert found["given"] == 1  # but for one pixel they are the ground truth
    assert 0 < found["refreshed"] < 1
    folder, pseudo = refreshed_dir(cfg), tmp_path / "data" / "pseudo"
    first = {path.name: read_label_map(path, CLASSES) for path in folder.glob("*.png")}
    assert len(first) == 6
    assert any((first[name] != read_label_map(pseudo / name, CLASSES)).any() for name in first)
    cards = {card.key: card for card in read_cards(Path(cfg.exp.output_dir))}
    assert cards["deeplab_given_train"].mean_iou == 1
    assert cards["deeplab_refreshed_train"].mean_iou == found["refreshed"]
    assert len(cards["deeplab_refreshed_train"].facts) == CLASSES + 1  # what each class won or lost
    (folder / "img_002.png").unlink()
    before = (folder / "img_001.png").stat().st_mtime_ns
    assert refresh_command.run(cfg) == found
    assert (folder / "img_001.png").stat().st_mtime_ns == before
    assert np.array_equal(read_label_map(folder / "img_002.png", CLASSES), first["img_002.png"])
    both = f"dataset.label_dirs=[pseudo,{folder}]"
    again = tiny_deeplab(tmp_path, "exp.id=again", "dataset.label_dir=", both, "solver.iter_max=1")
    assert train.run(again) == 0
    assert str(folder) in (logs_dir(again) / "log.txt").read_text()
    with pytest.raises(UserError, match="method=cdl_b or method=cdl_e"):
        refresh_command.run(tiny_deeplab(tmp_path), folder)

"""Test and crf commands: files, scores, continuing, sharing among processes, wrong input."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from configs.deeplab_schema import DeepLabConfig
from deeplab import crf
from deeplab import predict as test
from deeplab.evaluation import build_configured
from deeplab.labelling import Labelling
from deeplab.network import build_deeplab
from deeplab.outputs import Confusion, archive_path, logits_dir, predictions_dir, scores_dir
from models.refiners.dense_crf import DenseCrf
from tests.deeplab.tiny_deeplab import tiny_deeplab
from utils.config import save_config
from utils.data.items import Item, evaluation_items
from utils.errors import UserError
from utils.files import lock_folder
from utils.runtime.cards import read_cards
from utils.runtime.processes import Dist

ROOT = Path(__file__).parents[2]
IDS = [f"img_{index:03d}" for index in range(6)]


def _weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    if not path.exists():
        torch.manual_seed(0)
        network = build_deeplab(tiny_deeplab(tmp_path))
        torch.save(network.state_dict(), path)
    return path


def _predictions(cfg: DeepLabConfig, *, refined: bool) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(predictions_dir(cfg, crf=refined).glob("*.png"))}


def test_scores_follow_from_the_predictions(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "test.save_logits=npy")
    result = test.run(cfg, _weights(tmp_path))
    predictions = _predictions(cfg, refined=False)
    assert list(predictions) == IDS
    hits = total = 0
    for name, labels in predictions.items():
        truth = np.asarray(Image.open(tmp_path / "data" / "SegmentationClassAug" / f"{name}.png"))
        hits, total = hits + (labels == truth).sum(), total + truth.size
        logits = torch.from_numpy(np.load(logits_dir(cfg) / f"{name}.npy"))
        assert logits.shape == (4, 5, 6)
        large = torch.nn.functional.interpolate(logits[None], size=truth.shape, mode="bilinear", align_corners=False)
        np.testing.assert_array_equal(large[0].argmax(0), labels)
    content = json.loads((scores_dir(cfg) / "scores.json").read_text())
    assert content == json.loads(json.dumps(result))
    assert content["Pixel Accuracy"] == pytest.approx(hits / total)
    assert content["Class Names"] == ["background", "class 1", "class 2", "class 3"]
    assert content["CRF"] is None
    (card,) = read_cards(Path(cfg.exp.output_dir))
    assert (card.key, card.mean_iou, card.images) == ("deeplab_test_val", result["Mean IoU"], len(IDS))
    assert (card.confusion, card.names) == (result["Confusion Matrix"], result["Class Names"])
    assert Path(card.maps) == predictions_dir(cfg, crf=False)
    assert Image.open(predictions_dir(cfg, crf=False) / "img_000.png").mode == "P"


def test_crf_needs_no_logits_on_disk_and_gives_the_same_with_them(tmp_path: Path) -> None:
    weights = _weights(tmp_path)
    direct = tiny_deeplab(tmp_path, "exp.id=direct")
    first = crf.run(direct, weights)
    (card,) = read_cards(Path(direct.exp.output_dir))
    assert (card.key, card.title, card.mean_iou) == ("deeplab_crf_val", "DeepLab + CRF", first["Mean IoU"])
    stored = tiny_deeplab(tmp_path, "exp.id=stored", "test.save_logits=npy", "crf.workers=2")
    test.run(stored, weights)
    second = crf.run(stored, weights)
    assert first["Confusion Matrix"] == second["Confusion Matrix"]
    assert first["CRF"]["image"] == "published"
    refined, plain = _predictions(stored, refined=True), _predictions(stored, refined=False)
    assert any((refined[name] != plain[name]).any() for name in IDS)
    assert all((refined[name] == _predictions(direct, refined=True)[name]).all() for name in IDS)
    half = tiny_deeplab(tmp_path, "exp.id=half", "test.save_logits=fp16")
    test.run(half, weights)
    third = crf.run(half, weights)
    assert third["Pixel Accuracy"] == pytest.approx(first["Pixel Accuracy"], abs=0.01)


def test_batches_as_on_a_gpu_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "GPU_BATCH", 4)
    cfg = tiny_deeplab(tmp_path, "test.save_logits=npy", "crf.backend=torch")
    test.run(cfg, _weights(tmp_path))
    result = crf.run(cfg, _weights(tmp_path))
    items = evaluation_items(cfg.dataset)
    place, confusion = Dist(0, 1, 0, torch.device("cpu")), Confusion(cfg.dataset.num_classes)

    def refine() -> None:
        sources = ((item, logits_dir(cfg) / f"{item.image_id}.npy") for item in items)
        crf._on_gpu(
            Labelling.of(cfg), cast(DenseCrf, build_configured(cfg, place)), place, sources, tmp_path / "batches", confusion
        )

    refine()
    assert confusion.counts.tolist() == result["Confusion Matrix"]
    for name, labels in _predictions(cfg, refined=True).items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "batches" / f"{name}.png")), labels)
    items[5].image.write_bytes(b"none")
    with pytest.raises(UserError, match=r"img_005\.jpg is damaged"):
        refine()


def test_finished_predictions_are_kept_unless_made_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_deeplab(tmp_path)
    weights = _weights(tmp_path)
    whole = test.run(cfg, weights)
    done: list[str] = []
    finish = test._finish

    def counted(cfg: DeepLabConfig, labelling: Labelling, item: Item, *rest: Any) -> None:
        done.append(item.image_id)
        finish(cfg, labelling, item, *rest)

    monkeypatch.setattr(test, "_finish", counted)
    (predictions_dir(cfg, crf=False) / "img_002.png").unlink()
    (predictions_dir(cfg, crf=False) / "img_004.png").write_bytes(b"")
    assert test.run(cfg, weights) == whole
    assert sorted(done) == ["img_002", "img_004"]
    done.clear()
    test.run(tiny_deeplab(tmp_path, "test.flip=true"), weights)
    assert sorted(done) == IDS


def test_logits_asked_for_later_are_written(tmp_path: Path) -> None:
    weights = _weights(tmp_path)
    first = test.run(tiny_deeplab(tmp_path), weights)
    cfg = tiny_deeplab(tmp_path, "test.save_logits=npy")
    assert test.run(cfg, weights) == first
    assert sorted(path.stem for path in logits_dir(cfg).glob("*.npy")) == IDS
    half = tiny_deeplab(tmp_path, "test.save_logits=fp16")
    test.run(half, weights)
    assert sorted(path.name for path in logits_dir(half).glob("*.np?")) == [f"{name}.npz" for name in IDS]


def test_crf_does_not_use_logits_of_other_weights(tmp_path: Path) -> None:
    weights = _weights(tmp_path)
    cfg = tiny_deeplab(tmp_path, "test.save_logits=npy")
    test.run(cfg, weights)
    for path in logits_dir(cfg).glob("*.npy"):
        np.save(path, np.zeros_like(np.load(path)))  # whoever uses these files labels everything 0
    assert np.array(crf.run(cfg, weights)["Confusion Matrix"])[:, 1:].sum() == 0
    other = tmp_path / "other.pth"
    torch.manual_seed(1)
    torch.save(build_deeplab(tiny_deeplab(tmp_path)).state_dict(), other)
    direct = crf.run(tiny_deeplab(tmp_path, "exp.id=direct"), other)
    assert crf.run(cfg, other)["Confusion Matrix"] == direct["Confusion Matrix"]
    assert np.array(direct["Confusion Matrix"])[:, 1:].sum() > 0


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path)
    with lock_folder(predictions_dir(cfg, crf=False)), pytest.raises(UserError, match="in use by another running program"):
        test.run(cfg, _weights(tmp_path))


def test_processes_share_the_images(tmp_path: Path) -> None:
    weights = _weights(tmp_path)
    alone = test.run(tiny_deeplab(tmp_path, "exp.id=alone"), weights)
    both = tiny_deeplab(tmp_path, "exp.id=both", "solver.batch_size.test=4")
    path = tmp_path / "both.yaml"
    save_config(both, path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "deeplab", "test"]
    arguments = ["--config-path", str(path), "--model-path", str(weights)]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    shared = json.loads((scores_dir(both) / "scores.json").read_text())
    assert shared["Confusion Matrix"] == alone["Confusion Matrix"]


def test_views_are_averaged(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "test.scales=[1.0,0.75]", "test.flip=true", "test.save_logits=npy")
    test.run(cfg, _weights(tmp_path))
    logits = np.load(logits_dir(cfg) / "img_000.npy")
    assert logits.shape == (4, 5, 6)
    assert np.isfinite(logits).all()


def test_an_unlabelled_split_gives_the_servers_archive(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "test.unlabelled=true")
    listing = tmp_path / "data" / "test.txt"
    listing.write_text("\n".join(IDS) + "\n")
    cfg.dataset.val_list = str(listing)
    assert test.run(cfg, _weights(tmp_path)) == {}
    with tarfile.open(archive_path(cfg, crf=False)) as archive:
        assert archive.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png" for name in IDS]
    assert not scores_dir(cfg).exists()
    (card,) = read_cards(Path(cfg.exp.output_dir))
    assert (card.key, card.mean_iou, card.confusion) == ("deeplab_test_test", None, [])


def test_wrong_input_is_named(tmp_path: Path) -> None:
    cfg = tiny_deeplab(tmp_path, "test.save_logits=npy")
    weights = _weights(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint_final\.pth is not a file"):
        test.run(cfg)
    test.run(cfg, weights)
    damaged = logits_dir(cfg) / "img_004.npy"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(UserError, match=r"img_004\.npy cannot be read"):
        crf.run(cfg, weights)
    np.save(damaged, np.zeros((5, 2, 2), np.float32))
    with pytest.raises(UserError, match=r"img_004\.npy holds .*\(4, h, w\)"):
        crf.run(cfg, weights)
    truth = tmp_path / "data" / "SegmentationClassAug" / "img_001.png"
    Image.new("L", (40, 48)).save(truth)
    with pytest.raises(UserError, match=r"img_001\.png is 40x48 pixels"):
        test.run(tiny_deeplab(tmp_path, "exp.id=other"), weights)

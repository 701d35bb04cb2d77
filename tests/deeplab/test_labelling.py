"""From logits to labels: classes an image has, doubtful pixels, earlier labels, and the second evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from configs.deeplab_schema import DeepLabConfig
from deeplab import __main__ as program
from deeplab import crf
from deeplab import predict as test
from deeplab.labelling import Labelling, evaluations, full_size
from deeplab.network import build_deeplab
from deeplab.outputs import logits_dir, predictions_dir, scores_dir
from tests.deeplab.tiny_deeplab import tiny_deeplab
from utils.errors import UserError
from utils.runtime.cards import read_cards

IGNORE = 255


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(build_deeplab(tiny_deeplab(tmp_path)).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def _maps(cfg: DeepLabConfig, *, refined: bool = False) -> dict[str, Any]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(predictions_dir(cfg, crf=refined).glob("*.png"))}


def _image_labels(tmp_path: Path) -> dict[str, list[int]]:
    lines = (tmp_path / "data" / "train_cls.txt").read_text().split("\n")
    return {fields[0]: [int(one) for one in fields[1:]] for line in lines if (fields := line.split())}


@pytest.mark.parametrize("backend", ["pydensecrf", "torch"])
def test_only_classes_of_the_image_win(tmp_path: Path, weights: Path, backend: str) -> None:
    tiny_deeplab(tmp_path)
    listed = tmp_path / "data" / "train_cls.txt"
    cfg = tiny_deeplab(tmp_path, f"test.class_filter={listed}", "test.save_logits=npy", f"crf.backend={backend}")
    plain = tiny_deeplab(tmp_path, "exp.id=plain")
    test.run(plain, weights)
    test.run(cfg, weights)
    crf.run(cfg, weights)
    classes = _image_labels(tmp_path)
    unfiltered = _maps(plain)
    for name, labels in _maps(cfg).items():
        values = [0, *(index + 1 for index in classes[name])]
        logits = torch.from_numpy(np.load(logits_dir(cfg) / f"{name}.npy"))  # files hold all classes
        assert len(logits) == cfg.dataset.n_classes
        expected = np.array(values)[full_size(logits, (labels.shape[0], labels.shape[1]))[values].argmax(0)]
        np.testing.assert_array_equal(labels, expected)
        assert set(np.unique(_maps(cfg, refined=True)[name])) <= set(values)
    assert any(set(np.unique(unfiltered[name])) - {0, *(index + 1 for index in classes[name])} for name in classes)
    card = next(card for card in read_cards(Path(cfg.exp.output_dir)) if ["class filter", str(listed)] in map(list, card.facts))
    assert card.mean_iou is not None


def test_doubtful_pixels_are_ignored_or_keep_their_earlier_label(tmp_path: Path, weights: Path) -> None:
    plain = tiny_deeplab(tmp_path, "exp.id=plain", "test.save_logits=npy")
    test.run(plain, weights)
    best, winner = {}, {}
    for name, labels in _maps(plain).items():
        logits = torch.from_numpy(np.load(logits_dir(plain) / f"{name}.npy"))
        best[name], winner[name] = full_size(logits, (labels.shape[0], labels.shape[1])).softmax(0).max(0)
    limit = float(torch.cat([one.flatten() for one in best.values()]).median())
    cfg = tiny_deeplab(tmp_path, f"test.ignore_below={limit}")
    test.run(cfg, weights)
    certain = _maps(cfg)
    for name, labels in certain.items():
        np.testing.assert_array_equal(labels, torch.where(best[name] < limit, IGNORE, winner[name]))
    assert sum((labels == IGNORE).sum() for labels in certain.values()) > 0
    earlier = tmp_path / "data" / "pseudo"
    filled = tiny_deeplab(
        tmp_path, f"test.ignore_below={limit}", f"test.fill_from={earlier}", f"test.out_dir={tmp_path / 'filled'}"
    )
    test.run(filled, weights)
    for name, labels in _maps(filled).items():
        before = np.asarray(Image.open(earlier / f"{name}.png"))
        np.testing.assert_array_equal(labels, np.where(certain[name] == IGNORE, before, certain[name]))
    assert len(list((tmp_path / "filled").glob("*.png"))) == len(certain)
    asked = ("test.disputed=ignore", "test.name=disputed")
    ignoring = tiny_deeplab(tmp_path, f"test.ignore_below={limit}", f"test.fill_from={earlier}", *asked)
    test.run(ignoring, weights)
    for name, labels in _maps(ignoring).items():
        before = np.asarray(Image.open(earlier / f"{name}.png"))
        sure = certain[name] != IGNORE
        expected = np.where(before == IGNORE, certain[name], before)
        expected[sure & (before != IGNORE) & (certain[name] != before)] = IGNORE
        np.testing.assert_array_equal(labels, expected)
    assert any((labels == IGNORE).any() for labels in _maps(ignoring).values())


def test_after_a_refiner_doubt_is_the_refined_probability() -> None:
    labelling = Labelling(2, {"a": (1,)}, ignore_below=0.6)
    scores = torch.tensor([[[0.5, 1.0, 0.2]], [[0.5, 1.0, 1.8]]])  # as a chain of refiners leaves them: no probabilities yet
    assert labelling.decide("a", scores).tolist() == [[IGNORE, IGNORE, 2]]


def test_a_second_evaluation_stands_beside_the_first(tmp_path: Path, weights: Path) -> None:
    overrides = ["test.multi_scale=[0.75,1.0]"]
    cfg = tiny_deeplab(tmp_path, *overrides)
    path, keys = tmp_path / "deeplab.yaml", [*_as_overrides(tmp_path), *overrides]
    for command in ("test", "crf"):
        program.main([command, "--config-path", str(path), "--model-path", str(weights), *keys])
    single, multi = evaluations(cfg)
    assert (single.test.flip, list(single.test.scales)) == (False, [1.0])
    assert (multi.test.flip, list(multi.test.scales)) == (True, [0.75, 1.0])
    cards = {card.key: card.title for card in read_cards(Path(cfg.exp.output_dir))}
    assert cards == {
        "deeplab_test_val": "DeepLab",
        "deeplab_crf_val": "DeepLab + CRF",
        "deeplab_test_val_ms": "DeepLab, multi-scale",
        "deeplab_crf_val_ms": "DeepLab + CRF, multi-scale",
    }
    for one in (single, multi):
        assert (scores_dir(one) / "scores.json").is_file()
        assert (scores_dir(one) / "scores_crf.json").is_file()
    assert any((_maps(single)[name] != _maps(multi)[name]).any() for name in _maps(single))


def _as_overrides(tmp_path: Path) -> list[str]:
    """Return what `tiny_deeplab` sets, as arguments of the program."""
    from utils.config import flat_settings

    asked = ("exp", "dataset", "model", "image.size", "crf.workers", "crf.iter_max", "device")
    flat = flat_settings(tiny_deeplab(tmp_path))
    chosen = {key: value for key, value in flat.items() if key.startswith(asked) and value not in (None, "")}
    return [f"{key}={json.dumps(value) if isinstance(value, (bool, list)) else value}" for key, value in chosen.items()]


def test_wrong_input(tmp_path: Path, weights: Path) -> None:
    listed = tmp_path / "one.txt"
    listed.write_text("img_000 0\n")
    with pytest.raises(UserError, match="test.class_filter has no line for image 'img_00"):
        test.run(tiny_deeplab(tmp_path, f"test.class_filter={listed}"), weights)
    with pytest.raises(UserError, match="test.fill_from is .*nowhere, which is not a folder"):
        test.run(tiny_deeplab(tmp_path, f"test.fill_from={tmp_path / 'nowhere'}"), weights)
    with pytest.raises(UserError, match="test.ignore_below is 2.0, expected in"):
        tiny_deeplab(tmp_path, "test.ignore_below=2")

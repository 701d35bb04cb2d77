"""Refining whole folders of CAMs, and a refiner of one's own in every place that takes one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import models.refiners
from configs.fields import key
from configs.schema import Config
from deeplab import crf, train
from deeplab.settings import deeplab_schema
from scripts import evaluate_cams, gen_gt, refine_cams
from scripts.build import load_config
from tests.deeplab.tiny_deeplab import tiny_deeplab
from tests.tiny_data import tiny_config
from utils.config import load_schema, save_config
from utils.data.images import read_cam
from utils.data.lists import read_label_list
from utils.errors import UserError
from utils.runtime.cards import read_cards


@dataclass
class SharpenSettings:
    power: float = key(3.0, "exponent of the probabilities")


@dataclass(frozen=True)
class Sharpen:
    """A toy: probabilities to a power."""

    power: float

    section: ClassVar[str] = "sharpen"
    Settings: ClassVar[type] = SharpenSettings

    @classmethod
    def from_settings(cls, settings: SharpenSettings, **_: Any) -> "Sharpen":
        return cls(settings.power)

    def refine(self, scores: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert image.shape[:2] == scores.shape[1:] and abs(scores.sum(axis=0) - 1).max() < 1e-5
        powered = scores**self.power
        return np.asarray(powered / powered.sum(axis=0), np.float32)

    def settings(self) -> dict[str, Any]:
        return {"power": self.power}


@pytest.fixture
def sharpen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line a refiner costs."""
    monkeypatch.setitem(models.refiners.REFINERS, "sharpen", f"{__name__}:Sharpen")


def _ready(tmp_path: Path, *overrides: str) -> Config:
    """A configuration whose CAMs are there: bright in the lower right quarter of each picture."""
    common = ("refine.workers=1", "eval.workers=1")
    cfg = tiny_config(tmp_path, *common, *overrides)
    folder = Path(cfg.cam.dir)
    folder.mkdir(parents=True, exist_ok=True)
    cam = np.zeros((40, 48), np.uint8)
    cam[20:, 24:] = 200
    for image_id, classes in read_label_list(cfg.data.infer_list, cfg.data.num_classes).items():
        for k in classes:
            Image.fromarray(cam).save(folder / f"{image_id}_{k}.png")
    return cfg


def _maps(folder: str | Path) -> dict[str, NDArray[np.uint8]]:
    return {path.name: read_cam(path) for path in sorted(Path(folder).glob("*.png"))}


def test_a_folder_is_refined_and_a_stopped_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = _ready(tmp_path, "refine.by=dense_crf", "crf.iter_max=2")
    assert refine_cams.run(cfg) == 6
    before, after = _maps(cfg.cam.dir), _maps(cfg.refine.out_dir)
    assert before.keys() == after.keys() and any(not np.array_equal(before[name], after[name]) for name in before)
    name = next(iter(after))
    (Path(cfg.refine.out_dir) / name).unlink()
    assert refine_cams.run(cfg) == 1
    assert np.array_equal(_maps(cfg.refine.out_dir)[name], after[name])
    assert "5 were finished before" in capsys.readouterr().out
    (card,) = read_cards(Path(cfg.run_dir))
    assert card.key == "refined_dense_crf_train" and ["iter_max", "2"] in card.facts
    cfg.eval.cam_dir, cfg.pseudo.cam_dir = cfg.refine.out_dir, cfg.refine.out_dir
    assert evaluate_cams.run(cfg)["best"]["mean_iou"] > 0
    assert gen_gt.run(cfg)["images"] == 6


def test_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    refine_cams.run(_ready(tmp_path, "crf.iter_max=1"))
    with pytest.raises(UserError, match=r"another refiner .*refine\.overwrite=true"):
        refine_cams.run(_ready(tmp_path, "crf.iter_max=2"))
    assert refine_cams.run(_ready(tmp_path, "crf.iter_max=2", "refine.overwrite=true")) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("refine.by=nope", "there is no refiner 'nope', expected one or more of dense_crf, pamr, random_walk, or none"),
        ("refine.by=none", "nothing to do"),
        ("refine.out_dir=${cam.dir}", "would be lost"),
        ("refine.background=2", "refine.background is 2"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        refine_cams.run(_ready(tmp_path, override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pamr.iterations=0", "pamr.iterations is 0, expected at least 1"),
        ("pamr.dilations=[]", r"pamr.dilations is \[\], expected one distance or several"),
        ("pamr.dilations=[0,4]", r"pamr.dilations is \[0, 4\], expected .* at least 1 pixel"),
        ("pamr.dilations=[1.5]", "pamr.dilations"),
        ("pamr.steps=3", "unknown key 'pamr.steps'"),
    ],
)
def test_wrong_settings_of_pamr_are_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    base = Path(__file__).parents[2] / "configs" / "l2g_voc.yaml"
    with pytest.raises(UserError, match=message) as caught:
        load_config(base, ["refine.by=pamr", override, f"run_dir={tmp_path}"])
    assert "\n" not in str(caught.value)


def test_two_refiners_in_the_order_named(tmp_path: Path) -> None:
    """In worker processes, through both programs and their cards; the other order gives other maps."""
    settings = ("pamr.dilations=[1,2]", "pamr.iterations=3", "crf.backend=torch", "crf.iter_max=2")
    cfg = _ready(tmp_path, "refine.by=[pamr,dense_crf]", "pseudo.refine=[pamr,dense_crf]", "refine.workers=2", *settings)
    assert refine_cams.run(cfg) == 6
    stated = gen_gt.run(cfg)["refined"]
    assert list(stated) == ["pamr", "dense_crf"] and stated["pamr"] == {"dilations": [1, 2], "iterations": 3}
    labels, card = read_cards(Path(cfg.run_dir))[::-1]
    assert labels.key == "pseudo_threshold_pamr_dense_crf_train_pseudo" and card.key == "refined_pamr_dense_crf_train"
    assert (
        labels.title.startswith("Pseudo labels, threshold + pamr dense crf") and card.title == "Refined CAMs, pamr + dense crf"
    )
    assert ["pamr.dilations", "[1, 2]"] in card.facts and ["dense_crf.iter_max", "2"] in card.facts
    first = _maps(cfg.refine.out_dir)
    with pytest.raises(UserError, match="another refiner"):
        refine_cams.run(_ready(tmp_path, "refine.by=[dense_crf,pamr]", *settings))
    cfg = _ready(tmp_path, "refine.by=[dense_crf,pamr]", "refine.overwrite=true", *settings)
    assert refine_cams.run(cfg) == 6
    assert any(not np.array_equal(one, first[name]) for name, one in _maps(cfg.refine.out_dir).items())


@pytest.mark.usefixtures("sharpen")
def test_a_refiner_of_ones_own_works_in_every_place(tmp_path: Path) -> None:
    cfg = _ready(tmp_path, "refine.by=[sharpen]", "sharpen.power=2", "pseudo.refine=[sharpen,sharpen]")
    assert refine_cams.run(cfg) == 6
    image_id, classes = next((i, c) for i, c in read_label_list(cfg.data.infer_list, 3).items() if len(c) == 1)
    found = _maps(cfg.refine.out_dir)[f"{image_id}_{classes[0]}.png"]
    odds = (200 / 255 / 0.25) ** 2
    assert found[0, 0] == 0 and abs(int(found[-1, -1]) - 255 * odds / (1 + odds)) <= 1
    result = gen_gt.run(cfg)
    assert result["refined"] == {"sharpen": {"power": 2}}
    assert {card.key for card in read_cards(Path(cfg.run_dir))} == {
        "refined_sharpen_train",
        "pseudo_threshold_sharpen_sharpen_train_pseudo",
    }
    seg = tiny_deeplab(tmp_path / "seg", "solver.iter_max=1", "crf.workers=1")
    assert train.run(seg) == 0
    path = tmp_path / "seg.yaml"
    save_config(seg, path)
    seg = load_schema(path, ["refine=sharpen", "sharpen.power=5"], deeplab_schema)
    assert crf.run(seg)["CRF"] == {"power": 5}


@pytest.mark.usefixtures("sharpen")
def test_its_section_is_known_only_where_it_is_named(tmp_path: Path) -> None:
    base = Path(__file__).parents[2] / "configs" / "l2g_voc.yaml"
    assert load_config(base, ["pseudo.refine=sharpen", "sharpen.power=4"]).sharpen.power == 4  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="unknown key 'sharpen'"):
        load_config(base, ["sharpen.power=4"])

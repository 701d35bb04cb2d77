"""Making a bank as a program: from class maps, from pseudo labels, again, and when nothing is good enough."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.schema import Config
from scripts import make_foreground_bank
from tests.tiny_data import CLASSES, tiny_config
from utils.data.lists import read_label_list
from utils.data.paste import ForegroundBank
from utils.errors import UserError


def _config(tmp_path: Path, *overrides: str) -> Config:
    """Return a configuration whose class maps are the ground truth's squares, scored 200 of 255."""
    cfg = tiny_config(tmp_path, "bank.workers=1", "bank.share=[0.01,0.7]", "bank.single_class=false", *overrides)
    folder = Path(cfg.bank.cam_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, classes in read_label_list(cfg.data.label_list, CLASSES).items():
        truth = np.array(Image.open(Path(cfg.data.root) / "SegmentationClassAug" / f"{name}.png"))
        for k in classes:
            Image.fromarray(((truth == k + 1) * 200).astype(np.uint8)).save(folder / f"{name}_{k}.png")
    return cfg


def test_bank_from_class_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = _config(tmp_path)
    entries = make_foreground_bank.run(cfg)
    bank = ForegroundBank(Path(cfg.bank.dir), CLASSES)
    assert sorted(bank.entries) == [0, 1, 2] and sum(map(len, bank.entries.values())) == len(entries)
    for entry in entries:
        x1, y1, x2, y2 = entry.box
        truth = np.array(Image.open(tmp_path / "data" / "SegmentationClassAug" / f"{entry.image_id}.png"))[y1:y2, x1:x2]
        photo = np.array(Image.open(tmp_path / "data" / "JPEGImages" / f"{entry.image_id}.jpg"))[y1:y2, x1:x2]
        cutout = bank.load(entry)
        np.testing.assert_array_equal(cutout.labels == entry.class_index + 1, truth == entry.class_index + 1)
        np.testing.assert_array_equal(cutout.image, photo)
        np.testing.assert_array_equal(cutout.saliency, (truth > 0) * 230)
        assert entry.area == (cutout.labels > 0).sum() and entry.score == pytest.approx(200 / 255)
    printed = capsys.readouterr().out
    assert f"{len(entries)} objects of 6 images" in printed and "contact_sheet.png" in printed
    assert Image.open(Path(cfg.bank.dir) / "contact_sheet.png").mode == "RGB"
    index = json.loads((Path(cfg.bank.dir) / "index.json").read_text())
    assert index["made_with"]["threshold"] == 0.35 and len(index["objects"]) == len(entries)


def test_bank_from_pseudo_labels_equals_that_from_maps(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    from_maps = make_foreground_bank.run(cfg)
    labels = tmp_path / "data" / "SegmentationClassAug"
    other = _config(tmp_path, "bank.source=labels", f"bank.label_dir={labels}", f"bank.dir={tmp_path / 'other'}")
    from_labels = make_foreground_bank.run(other)
    assert [entry.file for entry in from_labels] == [entry.file for entry in from_maps]
    assert {entry.score for entry in from_labels} == {1.0}


def test_made_again_it_holds_only_what_its_index_lists(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    assert len(make_foreground_bank.run(cfg)) > CLASSES
    few = make_foreground_bank.run(_config(tmp_path, "bank.max_per_class=1"))
    assert len(few) == CLASSES
    pictures = {str(path.relative_to(cfg.bank.dir)) for path in Path(cfg.bank.dir).glob("*/*.png")}
    assert pictures == {name for entry in few for name in (entry.file, entry.saliency_file)}


def test_without_saliency_the_whole_object_can_be_pasted(tmp_path: Path) -> None:
    cfg = _config(tmp_path, "l2g.saliency=none", "data.saliency_dir=none")
    bank = ForegroundBank(Path(cfg.bank.dir), CLASSES) if make_foreground_bank.run(cfg) else None
    assert bank is not None
    cutout = bank.load(bank.entries[0][0])
    np.testing.assert_array_equal(cutout.saliency, (cutout.labels > 0) * 255)


def test_nothing_usable_is_one_clear_sentence(tmp_path: Path) -> None:
    cfg = _config(tmp_path, "bank.min_score=0.9")
    with pytest.raises(UserError) as error:
        make_foreground_bank.run(cfg)
    message = str(error.value)
    assert message.startswith("none of 6 images has an object for the bank (") and "score too low" in message
    assert "\n" not in message and not (Path(cfg.bank.dir) / "index.json").exists()


def test_missing_maps_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CAM folder .* cannot be read .*run scripts.make_cams first"):
        make_foreground_bank.run(tiny_config(tmp_path))

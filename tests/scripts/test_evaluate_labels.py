"""Folders of label maps of any program: the published figures, names of every form, and nothing left out silently."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.schema import Config
from scripts.evaluate_labels import main, run
from tests.evaluation_set import GOLDEN, make_config
from utils.data.classes import palette
from utils.errors import UserError
from utils.evaluation.label_maps import through_grid
from utils.evaluation.metrics import absent_as_zero, confusion_matrix, score
from utils.evaluation.scores import all_means
from utils.report.run import read_run
from utils.runtime.cards import read_cards

Maps = dict[str, NDArray[np.uint8]]


def write_maps(root: Path, truth: Maps, theirs: Maps, name: str = "{id}.png", classes: int = 3, *settings: str) -> Config:
    """Write ground truth and label maps, these as `theirs/<name>`; return a configuration that scores them."""
    for folder in ("JPEGImages", "SegmentationClassAug", "theirs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_id, labels in truth.items():
        Image.fromarray(labels).save(root / f"SegmentationClassAug/{image_id}.png")
        Image.new("RGB", labels.shape[::-1]).save(root / f"JPEGImages/{image_id}.jpg")
    for image_id, labels in theirs.items():
        Image.fromarray(labels).save(root / "theirs" / name.format(id=image_id))
    (root / "val.txt").write_text("".join(f"{image_id}\n" for image_id in truth))
    place = f"{root}/theirs" + ("" if name == "{id}.png" else f"/{name}")
    common = [f"data.eval_list={root}/val.txt", f"score.label_dir={place}", "score.workers=1"]
    return make_config(root, classes, *common, *settings)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures: most tests run the program only for its numbers."""
    for name in ("plot_class_iou", "plot_confusion"):
        monkeypatch.setattr(f"utils.evaluation.plots.{name}", lambda *args: None)


def eval_seg() -> dict[str, Any]:
    with np.load(GOLDEN / "wsfcn" / "eval_seg.npz") as file:
        return dict(file)


def test_published_figures(tmp_path: Path) -> None:
    """Every number the published program printed, from files that have its confusion matrix; class 7 is absent."""
    arrays = eval_seg()
    conf = arrays["conf"].astype(int)
    pairs = np.full((300 * 300, 2), 255, np.uint8)
    pairs[: conf.sum()] = np.repeat(np.indices(conf.shape).reshape(2, -1).T, conf.ravel(), axis=0)
    truth, theirs = pairs.T.reshape(2, 300, 300)
    cfg = write_maps(tmp_path, {"a": truth}, {"a": theirs}, "{id}.png", 20, "score.absent=zero")
    result = run(cfg)
    printed = str(arrays["printed"])
    rows = re.findall(r"^ *[\w/-]+ \| +(\d+) \| +([\d.]+) \| +([\d.]+) \| +([\d.]+)$", printed, re.MULTILINE)
    columns = [result[key].values() for key in ("pixels", "iou", "precision", "recall")]
    ours = [(str(n), *(f"{100 * v:.1f}" for v in values)) for n, *values in zip(*columns, strict=True)]
    assert len(rows) == 21 and ours == rows
    means = re.findall(r"mIoU: ([\d.]+)\s+Pr: ([\d.]+)\s+Re: ([\d.]+)\s+pixelacc: ([\d.]+)", printed)
    for part, expected in zip(("_foreground", ""), means, strict=True):
        keys = [f"mean_{kind}{part}" for kind in ("iou", "precision", "recall")]
        assert tuple(f"{100 * result[key]:.2f}" for key in (*keys, "pixel_accuracy")) == expected
    cfg.score.absent = "omit"
    assert run(cfg)["mean_iou"] == pytest.approx(result["mean_iou"] * 21 / 20)
    np.testing.assert_array_equal(confusion_matrix(arrays["gt"], arrays["pred"], 20), arrays["conf_one"])


def test_absent_classes_count_as_zero_only_when_asked() -> None:
    scores = score(np.diag([4, 0, 6]))
    assert all_means(scores)["mean_iou"] == 1 and all_means(scores)["mean_iou_foreground"] == 1
    zero = all_means(absent_as_zero(scores))
    assert zero["mean_iou"] == zero["mean_recall"] == pytest.approx(2 / 3) and zero["mean_precision_foreground"] == 0.5


TRUTH: Maps = {
    "000000000001": np.array([[0, 1, 1, 255], [0, 1, 2, 2]], np.uint8),
    "000000000002": np.array([[0, 0, 3], [0, 0, 3]], np.uint8),
}
THEIRS: Maps = {
    "000000000001": np.array([[0, 1, 0, 1], [0, 1, 2, 2]], np.uint8),
    "000000000002": np.array([[0, 0, 0], [0, 3, 3]], np.uint8),
}


@pytest.mark.parametrize("name", ["{id}.png", "COCO_val2014_{id}.png", "{id}_crf.png", "pred-{id}.v2.PNG"])
def test_names_of_other_programs(tmp_path: Path, name: str) -> None:
    result = run(write_maps(tmp_path, TRUTH, THEIRS, name))
    assert result["images"] == 2 and result["missing"] == 0
    assert result["pixels"] == {"background": 6, "class0": 3, "class1": 2, "class2": 2}
    assert result["iou"] == pytest.approx({"background": 5 / 8, "class0": 2 / 3, "class1": 1.0, "class2": 1 / 3})
    assert result["pixel_accuracy"] == pytest.approx(10 / 13)


def test_ground_truth_of_a_list_with_paths(tmp_path: Path) -> None:
    """The list names other masks than data.label_dir holds, and so does the report of the run."""
    cfg = write_maps(tmp_path, TRUTH, THEIRS, "{id}.png", 3, "data.paths=lists")
    (tmp_path / "SegmentationClassAug").rename(tmp_path / "cls_png")
    lines = [f"JPEGImages/{image_id}.jpg cls_png/{image_id}.png\n" for image_id in TRUTH]
    Path(cfg.data.eval_list).write_text("".join(lines))
    assert run(cfg)["pixel_accuracy"] == pytest.approx(10 / 13)
    data = read_run(tmp_path / "out").data
    assert data is not None and data.truth("000000000001") == tmp_path / "cls_png/000000000001.png"
    assert data.image_ids() == list(TRUTH)


def test_palette_and_grey_are_the_same(tmp_path: Path) -> None:
    cfg = write_maps(tmp_path, TRUTH, THEIRS)
    grey = run(cfg)
    for path in (tmp_path / "theirs").iterdir():
        coloured = Image.fromarray(np.asarray(Image.open(path)))
        coloured.putpalette(palette())
        coloured.save(path)
        assert Image.open(path).mode == "P"
    assert run(cfg) == grey


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with its pictures
    cfg = write_maps(tmp_path, TRUTH, THEIRS)
    result = run(cfg)
    folder = tmp_path / "out/label_scores"
    names = {"result.json", "result_counts.json", "result.yaml", "scores.log", "iou_per_class.png", "confusion.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "result.json").read_text()) == result
    lines = [line.split("\t") for line in (folder / "scores.log").read_text().splitlines()]
    assert lines[:3] == [  # TP - FN - FP; each label's images from the worst
        ["background", "000000000001", "1"],
        ["background", "000000000002", "1"],
        ["class0", "000000000001", "1"],
    ]
    assert lines[3:] == [["class1", "000000000001", "2"], ["class2", "000000000002", "-1"]]
    (card,) = read_cards(tmp_path / "out")
    assert (card.program, card.key, card.mean_iou) == ("scripts.evaluate_labels", "labels_val_theirs", result["mean_iou"])
    assert card.confusion == json.loads((folder / "result_counts.json").read_text())["confusion"]
    run_of_card = read_run(tmp_path / "out")
    assert [stage.card.key for stage in run_of_card.drawn] == ["labels_val_theirs"]


def test_pictures_of_several_folders_beside_the_ground_truth(tmp_path: Path) -> None:
    also, vis = tmp_path / "also", tmp_path / "vis"
    settings = (f"score.vis_dir={vis}", f"score.vis_also=[{also}]")
    cfg = write_maps(tmp_path, TRUTH, THEIRS, "{id}.png", 3, *settings)
    with pytest.raises(UserError, match=r"label map folder .*also cannot be read.*score\.vis_also"):
        run(cfg)
    assert not (tmp_path / "out").exists()  # told before the scores are counted
    also.mkdir()
    for image_id, labels in TRUTH.items():
        Image.fromarray(np.zeros_like(labels)).save(also / f"{image_id}.png")
        Image.new("RGB", labels.shape[::-1], (100, 100, 100)).save(tmp_path / f"JPEGImages/{image_id}.jpg")
    run(cfg)
    assert {path.stem for path in vis.iterdir()} == set(TRUTH)
    colours = np.frombuffer(palette(), np.uint8).reshape(-1, 3)[:255]
    for image_id, labels in TRUTH.items():
        left, middle, right = np.split(np.asarray(Image.open(vis / f"{image_id}.png")).astype(float), 3, axis=1)
        for part, drawn in ((left, THEIRS[image_id]), (middle, np.zeros_like(labels)), (right, labels)):
            known = drawn < 255
            np.testing.assert_allclose(part[known], 30 + 0.7 * colours[drawn[known]], atol=1.5)  # published: 0.3, 0.7
    with pytest.raises(UserError, match=r"score\.vis_dir .* is a folder of label maps"):
        run(write_maps(tmp_path, TRUTH, THEIRS, "{id}.png", 3, f"score.vis_dir={tmp_path}/theirs"))
    with pytest.raises(UserError, match=r"score\.vis_dir .* is the folder of data\.image_dir"):
        run(write_maps(tmp_path, TRUTH, THEIRS, "{id}.png", 3, f"score.vis_dir={tmp_path}/JPEGImages"))


def test_missing_files_stop_it_unless_allowed(tmp_path: Path) -> None:
    cfg = write_maps(tmp_path, TRUTH, {"000000000002": THEIRS["000000000002"]})
    with pytest.raises(
        UserError, match=r"1 of 2 label map files are missing in .*theirs: 000000000001.png; check score.label_dir"
    ):
        run(cfg)
    assert not (tmp_path / "out").exists()
    cfg.score.allow_missing = True
    result = run(cfg)
    assert (result["images"], result["missing"]) == (1, 1) and result["pixels"]["class0"] == 0
    (tmp_path / "SegmentationClassAug/000000000002.png").unlink()
    with pytest.raises(UserError, match="no image of data.eval_list has both files"):
        run(cfg)
    cfg.score.label_dir = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"label map folder .*none cannot be read .*check score.label_dir"):
        run(cfg)


def test_missing_ground_truth_stops_it(tmp_path: Path) -> None:
    cfg = write_maps(tmp_path, TRUTH, THEIRS)
    (tmp_path / "SegmentationClassAug/000000000001.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 ground truth files are missing in .*check data.label_dir"):
        run(cfg)


def test_pairs_of_different_size_stop_it_always(tmp_path: Path) -> None:
    cfg = write_maps(
        tmp_path, TRUTH, {i: labels[:, :2] for i, labels in THEIRS.items()}, "{id}.png", 3, "score.allow_missing=true"
    )
    message = (
        r"2 of 2 label maps are of another size than their ground truth: 000000000001.png \(2x2 for 4x2\), 000000000002.png"
    )
    with pytest.raises(UserError, match=message):
        run(cfg)
    assert not (tmp_path / "out").exists()


def test_pixels_without_a_label_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {image_id: np.where(labels == 0, 255, labels).astype(np.uint8) for image_id, labels in THEIRS.items()}
    result = run(write_maps(tmp_path, TRUTH, theirs))
    assert result["labelled"] == pytest.approx(6 / 13)
    assert "46.2% are scored" in capsys.readouterr().out
    empty = {image_id: np.full_like(labels, 255) for image_id, labels in THEIRS.items()}
    with pytest.raises(UserError, match="nothing to score"):
        run(write_maps(tmp_path, TRUTH, empty))


def test_a_grid_holds_one_label_a_cell() -> None:
    labels = np.array([[0, 0, 1, 1, 255], [0, 2, 1, 255, 255], [3, 3, 2, 2, 2]], np.uint8)
    np.testing.assert_array_equal(through_grid(labels, (1, 2)), [[0, 0, 0, 2, 2]] * 3)
    np.testing.assert_array_equal(through_grid(labels, (3, 5)), labels)
    np.testing.assert_array_equal(through_grid(labels, (30, 50)), labels)
    assert (through_grid(np.full((4, 4), 255, np.uint8), (2, 2)) == 255).all()


def test_oracle_of_a_resolution(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = {"a": rng.integers(0, 4, (40, 30), dtype=np.uint8)}
    cfg = write_maps(tmp_path, truth, truth)
    assert run(cfg)["mean_iou"] == 1
    cfg.score.oracle_from = "40x30"
    assert run(cfg)["mean_iou"] == 1
    cfg.score.oracle_from = "20x15"
    cells = truth["a"].reshape(20, 2, 15, 2).transpose(0, 2, 1, 3).reshape(300, 4)
    best = sum(np.bincount(cell).max() for cell in cells) / cells.size
    assert run(cfg)["pixel_accuracy"] == pytest.approx(best)
    keys = [card.key for card in read_cards(tmp_path / "out")]
    assert keys == ["labels_val_oracle_20x15_theirs", "labels_val_oracle_40x30_theirs", "labels_val_theirs"]


@pytest.mark.parametrize("text", ["65", "65x", "00x65", "axb", "65x65x65"])
def test_wrong_grid(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=rf"score.oracle_from is '{text}', expected height x width"):
        write_maps(tmp_path, TRUTH, THEIRS, "{id}.png", 3, f"score.oracle_from={text}")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_maps(tmp_path, TRUTH, THEIRS)
    arguments = [f"data.eval_list={tmp_path}/val.txt", f"score.label_dir={tmp_path}/theirs", "score.absent=zero"]
    main(["--config", str(tmp_path / "config.yaml"), *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("on 2 images (absent classes: zero)")
    assert lines[2].split() == ["background", "62.5", "71.4", "83.3", "6"]
    assert any(line.startswith("without background") for line in lines)


@pytest.mark.parametrize("name", ["hr_cam", "rw"])
def test_class_maps_become_labels(tmp_path: Path, name: str) -> None:
    """As the published program scored them: a channel of the threshold before the maps, the highest wins."""
    rng = np.random.default_rng(3)
    maps = rng.integers(0, 256, (2, 9, 7)).astype(np.float32) / 255
    expected = np.array([0, 1, 3], np.uint8)[np.concatenate([np.full((1, 9, 7), 0.401), maps]).argmax(axis=0)]
    truth = rng.integers(0, 4, (9, 7)).astype(np.uint8)
    cfg = write_maps(tmp_path, {"a": truth}, {}, "{id}.png", 3, "pseudo.threshold=0.401", f"score.vis_dir={tmp_path}/seen")
    stored: Any = {"keys": np.array([0, 1, 3]), name: maps}
    np.save(tmp_path / "theirs/a.npy", stored)
    found = run(cfg)
    assert found["mean_iou"] == pytest.approx(all_means(score(confusion_matrix(truth, expected, 3)))["mean_iou"])
    assert (tmp_path / "seen/a.png").is_file()
    stored["keys"] = np.array([0, 1, 4])
    np.save(tmp_path / "theirs/a.npy", stored)
    with pytest.raises(UserError, match=r"a.npy holds classes \[0, 3\], the data set has 0 to 2"):
        run(cfg)

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.gen_gt import run
from tests.evaluation_set import NUM_CLASSES, golden, make_config, write_golden_set, write_set
from utils.data.classes import palette
from utils.errors import UserError
from utils.files import lock_folder
from utils.runtime.cards import read_cards


def read_label(path: Path) -> np.ndarray:
    with Image.open(path) as label:
        assert label.mode == "P"
        assert bytes(label.getpalette() or []) == palette()
        return np.asarray(label)


def write_saliency_set(root: Path) -> None:
    cam, saliency = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    truth = np.zeros((20, 30), np.uint8)
    truth[5:15, 5:15], cam[5:15, 5:15], saliency[5:15, 5:16] = 2, 255, 255
    write_set(root, {"a": (truth, {1: cam}, saliency), "b": (truth, {}, saliency)})


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_golden_labels_from_files(tmp_path: Path, dataset: str) -> None:
    write_golden_set(tmp_path, dataset)
    result = run(make_config(tmp_path, NUM_CLASSES[dataset]))
    arrays = golden()
    for i in range(4):
        label = read_label(tmp_path / f"pseudo_seg_labels/image_{i}.png")
        np.testing.assert_array_equal(label, arrays[f"{dataset}_gen_gt_{i}"])
    at_quarter = arrays[f"{dataset}_thresholds"].tolist().index(0.25) if dataset == "voc12" else None
    if at_quarter is not None:
        assert result["mean_iou"] == pytest.approx(arrays["voc12_miou"][at_quarter], abs=1e-12)
    assert result["images"] == result["images_compared"] == 4
    assert result["coverage"] == 1.0


def test_saliency_labels_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_saliency_set(tmp_path)
    result = run(make_config(tmp_path, 3, "pseudo.fusion=saliency"))
    label = read_label(tmp_path / "pseudo_seg_labels/a.png")
    assert (label == 2).sum() == 100 and (label == 255).sum() == 10 and (label == 0).sum() == 490
    assert (read_label(tmp_path / "pseudo_seg_labels/b.png") == 255).all()
    assert json.loads((tmp_path / "pseudo_seg_labels/pseudo_labels.json").read_text()) == result
    assert result["ignored"] == pytest.approx(610 / 1200) and result["coverage"] == pytest.approx(590 / 1200)
    assert (result["images_ignored"], result["mean_iou"]) == (1, 1.0)
    assert result["iou"] == {"background": 1.0, "class0": None, "class1": 1.0, "class2": None}
    assert "class1" in capsys.readouterr().out


def test_image_without_classes_is_background(tmp_path: Path) -> None:
    write_saliency_set(tmp_path)
    run(make_config(tmp_path, 3))
    assert (read_label(tmp_path / "pseudo_seg_labels/b.png") == 0).all()


def test_without_ground_truth_scores_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_saliency_set(tmp_path)
    result = run(make_config(tmp_path, 3, "data.label_dir=none"))
    assert result["mean_iou"] is None and result["images_compared"] == 0
    assert "skipped" in capsys.readouterr().out


def test_two_processes_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_golden_set(tmp_path, "voc12")
    alone = run(make_config(tmp_path, 20))
    before = {path.name: path.read_bytes() for path in (tmp_path / "pseudo_seg_labels").glob("*.png")}
    monkeypatch.setattr("utils.cams.labels.CHUNK", 2)
    assert run(make_config(tmp_path, 20, "pseudo.workers=2")) == alone
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "pseudo_seg_labels").glob("*.png")}


VICTIMS = ["cams/a_1.png", "Sal/a.png", "JPEGImages/a.jpg", "damaged cams/a_1.png", "size Sal/a.png", "size cams/a_1.png"]


# With two processes, one case shows that the file's name survives the way home.
@pytest.mark.parametrize(("victim", "workers"), [*((victim, 1) for victim in VICTIMS), ("damaged cams/a_1.png", 2)])
def test_wrong_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, workers: int) -> None:
    monkeypatch.setattr("utils.cams.labels.CHUNK", 1)
    write_saliency_set(tmp_path)
    kind, _, name = victim.rpartition(" ")
    path = tmp_path / name
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "size":
        Image.new("L", (3, 4)).save(path)
    else:
        path.unlink()
    with pytest.raises(UserError, match=path.name):
        run(make_config(tmp_path, 3, "pseudo.fusion=saliency", f"pseudo.workers={workers}"))


def test_output_folder_in_use_or_holding_inputs(tmp_path: Path) -> None:
    write_saliency_set(tmp_path)
    with lock_folder(tmp_path / "pseudo_seg_labels"), pytest.raises(UserError, match="pseudo_seg_labels"):
        run(make_config(tmp_path, 3))
    for folder in ("SegmentationClassAug", "Sal", "cams"):
        with pytest.raises(UserError, match="would be lost"):
            run(make_config(tmp_path, 3, f"pseudo.out_dir={tmp_path}/{folder}"))


@pytest.mark.parametrize("override", ["pseudo.cam_floor=1.5", "pseudo.conflict=-1", "pseudo.salient=-1"])
def test_constants_out_of_range(tmp_path: Path, override: str) -> None:
    write_saliency_set(tmp_path)
    with pytest.raises(UserError, match=override.split("=")[0]):
        run(make_config(tmp_path, 3, override))


@pytest.mark.parametrize("fusion", ["threshold", "saliency"])
def test_crf_makes_labels_follow_the_picture(tmp_path: Path, fusion: str) -> None:
    truth, cam, saliency = (np.zeros((40, 50), np.uint8) for _ in range(3))
    truth[10:30, 15:35] = 2
    # Attention and saliency that run over the edge of the thing, though less sure there.
    cam[10:30, 15:39], saliency[10:30, 15:39] = 120, 150
    cam[10:30, 15:35] = 255
    write_set(tmp_path, {"a": (truth, {1: cam}, saliency)})
    picture = np.full((40, 50, 3), 60, np.uint8)
    picture[10:30, 15:35] = (200, 150, 40)
    Image.fromarray(picture).save(tmp_path / "JPEGImages/a.jpg", quality=100)
    overrides = [f"pseudo.fusion={fusion}", "crf.backend=torch", "pseudo.salient=256"]
    plain = run(make_config(tmp_path, 3, *overrides))
    refined = run(make_config(tmp_path, 3, "pseudo.refine=dense_crf", *overrides))
    (card,) = read_cards(tmp_path / "out")  # the plain labels are written over
    assert card.key == f"pseudo_{fusion}_dense_crf_train"
    assert (card.mean_iou, card.images, Path(card.maps)) == (refined["mean_iou"], 1, tmp_path / "pseudo_seg_labels")
    run(make_config(tmp_path, 3, f"pseudo.out_dir={tmp_path}/out/pseudo_{fusion}", *overrides))
    assert [one.key for one in read_cards(tmp_path / "out")] == [f"pseudo_{fusion}_train", card.key]
    assert plain["refined"] is None and refined["refined"]["backend"] == "torch" and refined["refined"]["bi_xy_std"] == 67
    assert plain["iou"]["class1"] == pytest.approx(20 / 24) and refined["iou"]["class1"] > 0.97
    assert (read_label(tmp_path / "pseudo_seg_labels/a.png") == truth).mean() > 0.99


def test_crf_settings_out_of_range(tmp_path: Path) -> None:
    write_saliency_set(tmp_path)
    with pytest.raises(UserError, match="bi_rgb_std"):
        run(make_config(tmp_path, 3, "pseudo.refine=dense_crf", "crf.bi_rgb_std=0"))


def test_threshold_without_ground_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores fall from the object's middle; saliency ends at 0.4, which a threshold can then find without any mask."""
    height, width = 20, 100
    ramp = np.broadcast_to(np.arange(width, dtype=np.uint8) * 2, (height, width)).copy()
    saliency = np.where(ramp > 100, 200, 60).astype(np.uint8)
    write_set(
        tmp_path, {"a": (np.zeros((height, width), np.uint8), {1: ramp}, saliency), "b": (np.zeros((9, 9), np.uint8), {}, None)}
    )
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "Sal/b.png")
    for path in (tmp_path / "SegmentationClassAug").glob("*.png"):
        path.unlink()
    run(make_config(tmp_path, 3, "pseudo.pick=saliency", "pseudo.threshold=0.9"))
    label = read_label(tmp_path / "pseudo_seg_labels/a.png")
    np.testing.assert_array_equal(label, np.where(saliency > 100, 2, 0))
    assert "background threshold 0.3922: there CAMs agree most with saliency" in capsys.readouterr().out
    (card,) = read_cards(tmp_path / "out")
    assert ["threshold picked by saliency", "0.392"] in [list(fact) for fact in card.facts]
    with pytest.raises(UserError, match="pick=saliency picks the threshold of pseudo.fusion=threshold"):
        make_config(tmp_path, 3, "pseudo.pick=saliency", "pseudo.fusion=saliency")

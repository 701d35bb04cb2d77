import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.evaluate_cams import main, run
from tests.evaluation_set import GOLDEN, NUM_CLASSES, golden, make_config, write_golden_set, write_set
from utils.data.lists import read_id_list
from utils.errors import UserError
from utils.evaluation.metrics import score
from utils.runtime.cards import read_cards


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures where a test runs the program only for its numbers."""
    monkeypatch.setattr("scripts.evaluate_cams._draw", lambda *args: None)


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def read_result(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=no_constants)


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
@pytest.mark.usefixtures("no_plots")
def test_golden_result_from_files(tmp_path: Path, dataset: str) -> None:
    write_golden_set(tmp_path, dataset)
    arrays, count = golden(), NUM_CLASSES[dataset]
    thresholds = arrays[f"{dataset}_thresholds"].tolist()
    cfg = make_config(tmp_path, count, f"eval.thresholds={thresholds}")
    result = run(cfg)
    assert read_result(tmp_path / "out/ms/result.json") == result
    assert list(result) == ["best", "thresholds"]
    assert [entry["threshold"] for entry in result["thresholds"]] == thresholds
    for i, entry in enumerate(result["thresholds"]):
        assert list(entry) == ["threshold", "mean_iou", "iou", "precision", "recall"]
        assert list(entry["iou"]) == ["background", *(f"class{k}" for k in range(count))]
        values = np.array([np.nan if v is None else v for v in entry["iou"].values()])
        np.testing.assert_allclose(values, arrays[f"{dataset}_iou"][i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(entry["mean_iou"], arrays[f"{dataset}_miou"][i], rtol=0, atol=1e-12)


def test_everything_is_written_beside_the_result(tmp_path: Path) -> None:
    write_golden_set(tmp_path, "voc12")
    run(make_config(tmp_path, 20))
    plots = {"miou_over_threshold.png", "iou_per_class.png", "confusion.png"}
    names = {"result.json", "result_counts.json", "result.yaml", *plots}
    assert {path.name for path in (tmp_path / "out/ms").iterdir()} == names
    counts = json.loads((tmp_path / "out/ms/result_counts.json").read_text())
    best = json.loads((tmp_path / "out/ms/result.json").read_text())["best"]
    assert max(counts["mean_iou"]) == best["mean_iou"]
    assert len(counts["mean_iou"]) == 256
    assert float(score(np.array(counts["confusion"])).mean_iou) == best["mean_iou"]
    (card,) = read_cards(tmp_path / "out")
    assert (card.program, card.mean_iou, card.threshold) == ("scripts.evaluate_cams", best["mean_iou"], best["threshold"])
    assert card.confusion == counts["confusion"]
    assert list(card.curve) == counts["mean_iou"]
    assert card.seconds >= 0 and card.images == len(read_id_list(Path(card.list_file)))


@pytest.mark.usefixtures("no_plots")
def test_another_output_of_the_same_images_has_a_card_of_its_own(tmp_path: Path) -> None:
    write_golden_set(tmp_path, "voc12")
    run(make_config(tmp_path, 20))
    run(make_config(tmp_path, 20, f"eval.out={tmp_path}/out/epoch_8/ms/result.json"))
    run(make_config(tmp_path, 20, f"eval.out={tmp_path}/out/epoch_8/ms/result.json"))  # replaces its own
    keys = [card.key for card in read_cards(tmp_path / "out")]
    assert len(keys) == 2 and sum(key.endswith("_epoch_8") for key in keys) == 1


@pytest.mark.usefixtures("no_plots")
def test_published_text_file(tmp_path: Path) -> None:
    write_golden_set(tmp_path, "voc12")
    run(make_config(tmp_path, 20, f"eval.published_format={tmp_path}/published.txt"))
    assert (tmp_path / "published.txt").read_text() == (GOLDEN / "evaluate_result_voc.txt").read_text()


@pytest.mark.usefixtures("no_plots")
def test_best_is_over_all_levels(tmp_path: Path) -> None:
    write_golden_set(tmp_path, "voc12")
    listed = [k / 255 for k in range(256)]
    result = run(make_config(tmp_path, 20, f"eval.thresholds={listed}"))
    best = max(result["thresholds"], key=lambda entry: entry["mean_iou"])
    assert result["best"] == {"threshold": best["threshold"], "mean_iou": best["mean_iou"]}
    assert run(make_config(tmp_path, 20, "eval.thresholds=[]")) == {"best": result["best"], "thresholds": []}


@pytest.mark.usefixtures("no_plots")
def test_two_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_golden_set(tmp_path, "voc12")
    alone = run(make_config(tmp_path, 20))
    monkeypatch.setattr("utils.cams.sweep.CHUNK", 2)
    assert run(make_config(tmp_path, 20, "eval.workers=2")) == alone


@pytest.mark.usefixtures("no_plots")
def test_console_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_golden_set(tmp_path, "voc12")
    make_config(tmp_path, 20)
    main(["--config", str(tmp_path / "config.yaml"), "eval.thresholds=[0.25]"])
    text = capsys.readouterr().out
    assert "background" in text and "class19" in text and "at threshold 0.25" in text and "best threshold" in text


@pytest.mark.parametrize("problem", ["cam size", "cam missing", "cam damaged", "label size", "label range", "label missing"])
def test_wrong_files_are_named(tmp_path: Path, problem: str) -> None:
    write_golden_set(tmp_path, "voc12")
    folder, name = ("cams", "image_2_7.png") if problem.startswith("cam") else ("SegmentationClassAug", "image_2.png")
    path = tmp_path / folder / name
    if problem.endswith("missing"):
        path.unlink()
    elif problem.endswith("damaged"):
        path.write_bytes(path.read_bytes()[:-40])
    else:
        content = np.full((16, 16), 21, np.uint8) if problem == "label range" else np.zeros((16, 17), np.uint8)
        Image.fromarray(content).save(path)
    # A ground truth of another size shows when the first CAM is read against it.
    with pytest.raises(UserError, match=r"image_2(_7)?\.png"):
        run(make_config(tmp_path, 20))


def test_ground_truth_without_a_labelled_pixel(tmp_path: Path) -> None:
    write_golden_set(tmp_path, "voc12")
    for path in (tmp_path / "SegmentationClassAug").iterdir():
        with Image.open(path) as label:
            Image.new("L", label.size, 255).save(path)
    with pytest.raises(UserError, match="nothing to evaluate"):
        run(make_config(tmp_path, 20))


@pytest.mark.usefixtures("no_plots")
def test_a_threshold_picked_without_masks_stands_beside_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8) * 2, (20, 100)).copy()
    truth, saliency = (ramp > 120).astype(np.uint8), np.where(ramp > 100, 255, 0).astype(np.uint8)
    write_set(tmp_path, {"a": (truth, {0: ramp}, saliency)})
    result = run(make_config(tmp_path, 1, "eval.pick=saliency"))
    best, picked = result["best"], result["picked"]
    assert (best["mean_iou"], best["threshold"]) == (1.0, 120 / 255)
    assert (picked["by"], picked["threshold"]) == ("saliency", 100 / 255)
    at_picked = 0.5 * (39 / 49 + 51 / 61)
    assert picked["mean_iou"] == pytest.approx(at_picked)
    assert f"{100 * (1 - at_picked):.2f} below the best" in capsys.readouterr().out

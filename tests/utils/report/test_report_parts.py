"""Parts of the report: choice of images, error maps, confused pairs, thinned curves, figures, settings."""

import re

import numpy as np

from utils.report.figures import MOST_POINTS, VARIABLES, confusion_figure, curves_figure, thin
from utils.report.images import ImageScores, ImageTask, StageScore, choose
from utils.report.run import confused_pairs, duration, show_value
from utils.report.tiles import CONFUSED, INVENTED, MISSED, RIGHT_DIMMED, UNKNOWN_GREY, error_map


def _scored(number: int, split: str, mean: float | None) -> ImageScores:
    scores = {"first": StageScore(0.5, {}), "last": StageScore(mean, {})}
    return ImageScores(ImageTask(f"{split}{number}", split, ("first", "last")), (1,), scores)


def test_choice_holds_worst_best_and_between() -> None:
    images = [_scored(i, "train", i / 100) for i in np.random.default_rng(0).permutation(100)]
    means = [round(100 * (item.last_mean() or 0)) for item in choose(images, 30)]
    assert means == sorted(means)
    assert len(means) == 30
    assert means[:10] == list(range(10))
    assert means[-10:] == list(range(90, 100))
    assert 40 < np.median(means) < 60
    assert len(choose(images, 1000)) == 100


def test_places_a_small_split_leaves_go_to_the_others() -> None:
    images = [*(_scored(i, "train", 0.5) for i in range(50)), *(_scored(i, "val", 0.6) for i in range(5))]
    chosen = choose(images, 20)
    assert [sum(item.task.split == split for item in chosen) for split in ("train", "val")] == [15, 5]


def test_unknown_last_score_falls_back_to_the_stage_before() -> None:
    assert _scored(0, "train", None).last_mean() == 0.5


def test_error_map_colours() -> None:
    truth = np.array([[1, 0, 1, 2, 255, 1]], np.uint8)
    labels = np.array([[0, 2, 2, 2, 1, 255]], np.uint8)
    picture = error_map(np.full((1, 6, 3), 100, np.uint8), truth, labels)[0]
    for pixel, colour in zip(picture[:3], (MISSED, INVENTED, CONFUSED), strict=True):
        assert np.abs(pixel - (0.8 * np.array(colour) + 0.2 * 100 * RIGHT_DIMMED)).max() <= 1
    assert (picture[3] == round(100 * RIGHT_DIMMED)).all()
    assert (picture[4:] == UNKNOWN_GREY).all()


def test_confused_pairs_are_shares_of_the_true_class() -> None:
    counts = np.array([[900, 50, 50], [20, 60, 20], [0, 5, 5]])
    found = confused_pairs(["background", "cat", "dog"], counts)
    assert [(p.truth, p.predicted, p.share) for p in found.classes] == [("dog", "cat", 0.5), ("cat", "dog", 0.2)]
    assert [(p.truth, p.share) for p in found.missed] == [("cat", 0.2)]
    assert {p.predicted for p in found.invented} == {"cat", "dog"}


def test_long_curves_are_averaged() -> None:
    steps = np.arange(10_000.0)
    thinned, values = thin(steps, steps % 2)
    assert len(thinned) == MOST_POINTS
    assert np.abs(values - 0.5).max() < 0.03
    assert (thin(steps[:5], steps[:5])[1] == steps[:5]).all()


def test_figures_take_the_colours_of_the_page() -> None:
    curve = (np.array([1.0, 2.0]), np.array([1.0, 0.5]))
    for svg in (
        curves_figure("one", {"a <b>": curve}, "loss"),
        confusion_figure("two", ["x", "y&z"], np.eye(2, dtype=np.int64)),
    ):
        assert svg.startswith("<svg ")
        assert "var(--ink)" in svg
        assert not any(colour in svg for colour in VARIABLES)
        assert "DejaVu" not in svg
        assert "<b>" not in svg
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert {"one", "two"} & {found.partition("-")[0] for found in ids}
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= ids
    assert curves_figure("one", {"a": curve}, "loss") == curves_figure("one", {"a": curve}, "loss")


def test_text_of_settings_and_times() -> None:
    assert [show_value(v) for v in ("", None, True, 0.5, [1, 2.0], "x")] == ["none", "none", "yes", "0.5", "1, 2", "x"]
    assert [duration(s).replace("\u00a0", " ") for s in (4.25, 411.1, 7384)] == ["4.2 s", "6:51 min", "2:03:04 h"]

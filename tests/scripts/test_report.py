"""The report as a program: what stands in its pages, for runs with all stages, some and none."""

import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from scripts import compare, evaluate_boxes, gen_gt
from scripts.build import load_config
from scripts.report import main
from tests.report_runs import IMAGES, invented_card, make_run, write_deeplab
from utils.errors import UserError, run_program
from utils.report.run import read_run
from utils.runtime.cards import write_card

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Collects ids, pictures and links, and checks that every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.addresses += [value for key, value in attrs if key in ("src", "href") and value]
        if tag == "img":
            self.pictures.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def data(self) -> Any:
        found = re.search(r'<script type="application/json" id="gallery-data">(.*?)</script>', self.text, re.DOTALL)
        assert found
        return json.loads(found[1])


def _report(*arguments: str | Path) -> None:
    main([*map(str, arguments), "--workers", "1"])


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest where a test looks at other parts."""
    monkeypatch.setattr("utils.report.pages._figures", lambda runs, rates: [])
    monkeypatch.setattr("utils.report.pages._confusions", lambda run: [])


def test_page_of_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    _report("--run", run, "--pictures", tmp_path / "readme")
    page = Page(run / "report/index.html")
    assert f"report: {run / 'report/index.html'}" in capsys.readouterr().out
    for expected in (
        "Pseudo labels, saliency", "DeepLab + CRF", "best threshold", "published", "1:15", "0.50", "Training: losses",
        "learning rate", "Classes taken for each other", "red &amp; &lt;b&gt;",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert "<b>" not in "".join(re.findall(r"<option[^>]*>(.*?)</option>", page.text))  # names are escaped
    miou = json.loads((run / "ms/result.json").read_text())["best"]["mean_iou"]
    assert f"{100 * miou:.1f}<small> % mIoU" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert not [a for a in page.addresses if a.startswith(("http", "//"))]  # no network
    for picture in page.pictures:
        assert (run / "report" / unquote(picture["src"] or "")).is_file()
        assert picture["alt"]
        assert picture["width"]
    lazy = [picture for picture in page.pictures if picture.get("loading") == "lazy"]
    assert 0 < len(lazy) < len(page.pictures)
    assert {path.name for path in (tmp_path / "readme").iterdir()} == {"scores.png", "images.png"}
    assert all(path.stat().st_size < 200_000 for path in (tmp_path / "readme").iterdir())


@pytest.mark.usefixtures("no_figures")
def test_gallery_is_sorted_and_thumbnails_are_written_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    boxes = load_config(run / "ms/result.yaml", ["boxes.workers=1", f"boxes.vis_dir={run / 'pictures'}"])
    known = evaluate_boxes.run(boxes)["at_threshold"]["gt_known"]
    _report("--run", run)
    page = Page(run / "report/index.html")
    data = page.data()
    assert f"{100 * known:.1f}<small> % GT-known" in page.text
    drawn = [image for image in page.pictures if (image["alt"] or "").startswith("Boxes, ")]
    assert len(drawn) == len(list((run / "pictures").iterdir())) > 0
    assert any("boxes_train" in image["scores"] for image in data)
    assert len(data) == IMAGES
    means = [list(image["scores"].values())[-1][0] for image in data]
    assert means == sorted(means)  # worst first
    assert all(set(image["values"]) <= {1, 2, 3} for image in data)
    before = {path: path.stat().st_mtime_ns for path in (run / "report/thumbs").iterdir()}
    _report("--run", run)
    assert {path: path.stat().st_mtime_ns for path in (run / "report/thumbs").iterdir()} == before
    _report("--run", run, "--images", "2")
    assert len(Page(run / "report/index.html").data()) == 2
    assert set((run / "report/thumbs").iterdir()) < set(before)  # those no longer shown are gone


def test_comparison_is_sorted_by_gain(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path, "good", shift=1), make_run(tmp_path, "bad", shift=8)
    _report("--run", bad, "--run", good)
    page = Page(bad / "report/vs_good.html")
    gains = [list(image["scores"].values())[-1][0] for image in page.data()]
    assert gains == sorted(gains)
    assert gains[0] < 0
    assert "bad against good" in page.text
    assert all((bad / "report" / unquote(p["src"] or "")).is_file() for p in page.pictures)
    assert 'href="vs_good.html"' in Page(bad / "report/index.html").text
    assert "None but the name" in page.text


def test_scores_reach_tensorboard(tmp_path: Path) -> None:
    run = make_run(tmp_path, deeplab=False)
    for _ in range(2):
        _report("--run", run, "--images", "0")
    files = [path.name for path in (run / "tb").iterdir()]
    assert len(files) == 2
    assert sum(name.endswith(".hparams") for name in files) == 1
    assert "score/cam_train" not in (run / "report/index.html").read_text()  # no curve of a single point


@pytest.mark.parametrize("left", ["nothing", "cards", "deeplab", "tb"])
def test_any_part_of_a_run_is_enough(tmp_path: Path, left: str) -> None:
    run = make_run(tmp_path)
    for path in list(run.iterdir()):
        if path.is_dir() and path.name != left:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    _report("--run", run)
    text = Page(run / "report/index.html").text
    assert ("DeepLab + CRF" in text) == (left == "deeplab")
    assert ("Pseudo labels, saliency" in text) == (left == "cards")
    assert ('id="gallery"' in text) == (left == "deeplab")
    assert ("No picture to show" in text) == (left == "cards")


def test_the_segmentation_stage_may_lie_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    elsewhere = shutil.move(run / "deeplab", tmp_path / "segmentation")
    _report("--run", run)
    assert "DeepLab" not in (run / "report/index.html").read_text()
    _report("--run", run, "--deeplab", elsewhere)
    page = Page(run / "report/index.html")
    assert "DeepLab: losses" in page.text
    assert all("deeplab_crf_val" in image["scores"] for image in page.data())
    with pytest.raises(UserError, match="is no folder"):
        _report("--run", run, "--deeplab", tmp_path / "nothing")


@pytest.mark.usefixtures("no_figures")
def test_segmentation_stages_are_told_apart_and_compared_by_their_images(tmp_path: Path) -> None:
    run, other = make_run(tmp_path), make_run(tmp_path, "other", shift=2)
    for path in (run / "deeplab", other / "deeplab"):
        if path.parent == run:
            shutil.rmtree(path)
        write_deeplab(tmp_path / "data", path, 3, "train")
    _report("--run", other, "--run", run)
    alone, both = Page(other / "report/index.html").text, Page(other / "report/vs_run.html").text
    assert "DeepLab, val" in alone and "DeepLab + CRF, train" in alone and "DeepLab (2)" not in alone
    assert "DeepLab, train" in both
    compared = {key for image in Page(other / "report/vs_run.html").data() for key in image["scores"]}
    assert compared == {"cam_train", "pseudo_saliency_train", "deeplab_test_train", "deeplab_crf_train"}


def test_labels_of_two_sets_in_one_run_are_two_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path, deeplab=False)
    data = tmp_path / "data"
    shutil.copy(data / "train_aug.txt", data / "val_aug.txt")
    for name, more in (("pseudo_val", f"data.eval_list={data}/val_aug.txt"), ("others", "pseudo.cam_floor=0.2")):
        gen_gt.run(load_config(run / "ms/result.yaml", [f"pseudo.out_dir={run / name}", more]))
    stages = [stage for stage in read_run(run).stages if stage.card.program == "scripts.gen_gt"]
    assert [stage.card.key for stage in stages] == [
        "pseudo_saliency_train", "pseudo_saliency_train_others", "pseudo_saliency_val"
    ]  # fmt: skip
    assert [stage.title for stage in stages] == [
        "Pseudo labels, saliency, train", "Pseudo labels, saliency (others)", "Pseudo labels, saliency, val"
    ]  # fmt: skip


def test_an_invented_stage_of_an_invented_method_is_drawn_and_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, "model.width=0.5", shift=2, deeplab=False) for name in ("one", "other")]
    for run, miou in zip(runs, (0.75, 0.25), strict=True):
        write_card(run, invented_card(tmp_path / "data", run, miou))
    _report("--run", runs[0], "--run", runs[1])
    alone, both = (Page(runs[0] / "report" / name) for name in ("index.html", "vs_other.html"))
    for expected in ("Wishing well", "elsewhere.wish", "75.0<small> % mIoU", "three"):
        assert expected in alone.text, expected
    assert all(image["scores"]["wish_train"][0] == 1 for image in alone.data())  # its maps are the ground truth
    assert "Wishing well<br><small>train" in both.text
    assert "+50.0" in both.text
    assert all(image["scores"]["wish_train"][0] == 0 for image in both.data())


@pytest.mark.usefixtures("no_figures")
def test_any_number_of_runs_is_compared_and_seeds_are_one_row(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"l2g_s{i}", f"seed={i}", shift=1 + i, deeplab=False) for i in range(3)]
    runs.append(make_run(tmp_path, "wide", "model.width=0.5", shift=5, deeplab=False))
    _report(*(part for run in runs for part in ("--run", run)), "--images", "3")
    page = Page(runs[0] / "report/vs_3_runs.html")
    scores = [100 * read_run(run).scores()["cam_train"] for run in runs]
    assert f"{statistics.mean(scores[:3]):.1f} ± {statistics.stdev(scores[:3]):.1f}" in page.text
    assert f">{scores[3]:.1f}<" in page.text
    assert "l2g against wide" in page.text
    assert "<td><code>model.width</code></td><td>1</td><td>0.5</td>" in page.text
    assert "<td><code>seed</code></td><td>0, 1, 2</td>" in page.text
    assert len(page.data()) == 3
    assert "(A is l2g_s0, B wide)" in page.text  # the first run of each setting
    third = make_run(tmp_path, "deep", "model.width=0.25", shift=4, deeplab=False)
    _report("--run", runs[0], "--run", runs[3], "--run", third)
    page = Page(runs[0] / "report/vs_2_runs.html")
    assert "l2g_s0 against wide, deep" in page.text
    assert "A − B" not in page.text and 'id="gallery"' not in page.text
    assert "compared with 2 runs" in (runs[0] / "report/index.html").read_text()


@pytest.mark.usefixtures("no_figures")
def test_runs_of_one_setting_have_rows_and_their_mean(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"s{i}", f"seed={i}", shift=1 + 2 * i, deeplab=False) for i in range(3)]
    _report(*(part for run in runs for part in ("--run", run)), "--images", "0")
    text = Page(runs[0] / "report/vs_2_runs.html").text
    scores = [100 * read_run(run).scores()["cam_train"] for run in runs]
    mean = f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"
    assert all(expected in text for expected in (mean, *(f">{value:.1f}<" for value in scores)))


@pytest.mark.usefixtures("no_figures")
def test_configuration_names_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, deeplab=False)
    _report("--config", run / "ms/result.yaml", "--out", tmp_path / "page")
    assert (tmp_path / "page/index.html").is_file()
    assert not (run / "report").exists()


@pytest.mark.usefixtures("no_figures")
def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path, deeplab=False)
    with pytest.raises(UserError, match="is no folder"):
        _report("--run", tmp_path / "nothing")
    with pytest.raises(UserError, match="no run given"):
        _report()
    with pytest.raises(UserError, match="--config FILE"):
        _report("seed=1", "--run", run)
    cam = next((run / "ms/attention").glob("*.png"))
    cam.write_bytes(cam.read_bytes()[:40])
    with pytest.raises(UserError, match=cam.name):
        _report("--run", run)


def test_a_damaged_card_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, deeplab=False)
    (run / "cards/cam_train.json").write_text("{")
    capsys.readouterr()
    for program in (main, compare.main):
        monkeypatch.setattr("sys.argv", ["x", str(run)] if program is compare.main else ["x", "--run", str(run)])
        with pytest.raises(SystemExit) as stopped:
            run_program(program)
        message = capsys.readouterr().err
        assert stopped.value.code == 2
        assert "cam_train.json is no stage card" in message and message.count("\n") == 1

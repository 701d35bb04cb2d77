"""The report as a program: what stands in its pages, for runs with all stages, some and none."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from scripts.report import main
from tests.report_runs import IMAGES, make_run
from utils.errors import UserError
from utils.report.files import find_files
from utils.report.stages import read_stages

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
    monkeypatch.setattr("utils.report.pages._single_figures", lambda run: [])
    monkeypatch.setattr("utils.report.pages._confusions", lambda run: [])
    monkeypatch.setattr("utils.report.pages._figures", lambda one, other: [])


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
    _report("--run", run)
    data = Page(run / "report/index.html").data()
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
    assert "score/cam" not in (run / "report/index.html").read_text()  # no curve of a single point


@pytest.mark.parametrize("left", ["nothing", "ms", "pseudo_saliency", "deeplab", "tb"])
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
    assert ('id="gallery"' in text) == (left in ("ms", "pseudo_saliency", "deeplab"))


@pytest.mark.usefixtures("no_figures")
def test_segmentation_stages_are_told_apart_and_compared_by_their_images(tmp_path: Path) -> None:
    run, other = make_run(tmp_path), make_run(tmp_path, "other", shift=2)
    for folder in (run / "deeplab", other / "deeplab"):
        for path in [*folder.glob("scores/exp/net/val"), *folder.glob("predictions/exp/net/val*")]:
            shutil.copytree(path, path.with_name(path.name.replace("val", "train")))
            if folder.parent == run:
                shutil.rmtree(path)
    _report("--run", other, "--run", run)
    alone, both = Page(other / "report/index.html").text, Page(other / "report/vs_run.html").text
    assert "DeepLab, val" in alone and "DeepLab + CRF, train" in alone and "DeepLab (2)" not in alone
    assert "DeepLab, train" in both and "DeepLab, val" not in both


def test_labels_of_two_sets_in_one_run_are_two_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path, deeplab=False)
    other = shutil.copytree(run / "pseudo_saliency", run / "pseudo_val")
    settings = other / "pseudo_labels.yaml"
    text = settings.read_text()
    settings.write_text(text.replace("train_aug", "val_aug"))
    assert settings.read_text() != text
    stages = read_stages(find_files(run))
    assert [stage.key for stage in stages] == ["cam", "pseudo_saliency", "pseudo_saliency_2"]
    assert [stage.title for stage in stages[1:]] == ["Pseudo labels, saliency, train", "Pseudo labels, saliency, val"]


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
    with pytest.raises(UserError, match="expected one or two"):
        _report()
    with pytest.raises(UserError, match="--config FILE"):
        _report("seed=1", "--run", run)
    cam = next((run / "ms/attention").glob("*.png"))
    cam.write_bytes(cam.read_bytes()[:40])
    with pytest.raises(UserError, match=cam.name):
        _report("--run", run)
    (run / "ms/result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json cannot be read as JSON"):
        _report("--run", run)

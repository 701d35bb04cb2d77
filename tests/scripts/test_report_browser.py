"""The report in a real browser: filters, viewer, keyboard, no messages on the console, no sideways scrolling."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.report import main
from tests.report_runs import IMAGES, make_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# No sandbox: containers have none to offer; the page is the test's own.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic",
]  # fmt: skip
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield a headless Chromium. Where there is one the tests run, or fail; where there is none, the last line says so."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH (the variable CHROMIUM may name one)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as session:
        opened = session.chromium.launch(executable_path=found, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report with a comparison."""
    root = tmp_path_factory.mktemp("report")
    one, other = make_run(root, "one", shift=8), make_run(root, "other", shift=1, deeplab=False)
    main(["--run", str(one), "--run", str(other), "--workers", "1"])
    return one / "report"


def _open(browser: Any, path: Path, size: dict[str, int], scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url))
    page.goto(path.as_uri())
    return page, problems


def _shown(page: Any) -> list[str]:
    return list(page.eval_on_selector_all("#gallery .item:not([hidden]) .open", "all => all.map(one => one.textContent)"))


@pytest.mark.parametrize("name", ["index.html", "vs_other.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_opens_cleanly_at_every_width(browser: Any, pages: Path, name: str, scheme: str, size: dict[str, int]) -> None:
    page, problems = _open(browser, pages / name, size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    for part in page.query_selector_all("#gallery .item"):
        part.scroll_into_view_if_needed()
    page.wait_for_function("Array.from(document.images).every(one => one.complete && one.naturalWidth > 0)")
    assert problems == []


def test_filters_and_orders(browser: Any, pages: Path) -> None:
    page, problems = _open(browser, pages / "index.html", DESKTOP)
    everything = _shown(page)
    assert len(everything) == IMAGES
    page.select_option("#by-order", "down")
    assert _shown(page) != everything
    assert sorted(_shown(page)) == sorted(everything)
    page.select_option("#by-order", "name")
    assert _shown(page) == sorted(everything)
    page.select_option("#by-class", "2")
    chosen = _shown(page)
    assert 0 < len(chosen) < IMAGES
    chips = page.eval_on_selector_all(".item:not([hidden])", "all => all.map(one => !!one.querySelector('[data-value=\"2\"]'))")
    assert all(chips)
    assert page.text_content("#count") == f"{len(chosen)} of {IMAGES}"
    page.select_option("#by-class", "")
    page.fill("#by-name", "IMG_003")
    assert _shown(page) == ["img_003"]
    assert problems == []


def test_sorts_by_stage_and_by_the_iou_of_the_chosen_class(browser: Any, pages: Path) -> None:
    page, _ = _open(browser, pages / "index.html", DESKTOP)
    data = json.loads(page.text_content("#gallery-data"))
    for stage in ("cam_train", "deeplab_crf_val"):
        for value in ("", "1", "3"):
            page.select_option("#by-stage", stage)
            page.select_option("#by-class", value)
            of_stage = {image["id"]: image["scores"][stage] for image in data if not value or int(value) in image["values"]}
            expected = sorted(score[1][value] if value else score[0] for score in of_stage.values())
            for order, ranked in (("up", expected), ("down", expected[::-1])):
                page.select_option("#by-order", order)
                found = [of_stage[name][1][value] if value else of_stage[name][0] for name in _shown(page)]
                assert found == ranked, (stage, value, order)


def test_viewer_and_keyboard(browser: Any, pages: Path) -> None:
    page, problems = _open(browser, pages / "index.html", DESKTOP)
    names = _shown(page)
    page.focus("#gallery .item:first-child .open")
    page.keyboard.press("Enter")
    current = "#stage .open"
    assert page.is_visible("#viewer")
    assert page.text_content(current) == names[0]
    page.keyboard.press("ArrowRight")
    assert page.text_content(current) == names[1]
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")  # nothing beyond the last
    assert page.text_content(current) == names[-1]
    assert page.is_disabled("#next")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#position") == f"{IMAGES - 1} / {IMAGES}"
    page.keyboard.press("ArrowUp")  # one picture alone: the last, the error map
    assert page.locator("#stage figure:visible").count() == 1
    assert "errors" in page.text_content("#stage figure.big figcaption")
    page.keyboard.press("ArrowLeft")
    assert "errors" in page.text_content("#stage figure.big figcaption")
    page.keyboard.press("0")
    assert page.locator("#stage figure:visible").count() > 1
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    assert page.evaluate("document.activeElement.textContent") == names[IMAGES - 3]
    assert problems == []


def test_click_enlarges_that_picture(browser: Any, pages: Path) -> None:
    page, problems = _open(browser, pages / "vs_other.html", PHONE)
    page.click("#gallery .item:first-child figure:nth-child(2) img")
    assert page.text_content("#stage figure.big figcaption") == "ground truth"
    small = page.locator("#gallery .item:first-child figure:nth-child(2) img").bounding_box()["width"]
    assert page.locator("#stage figure.big img").bounding_box()["width"] > 2 * small
    page.click("#stage figure.big")
    assert page.locator("#stage figure:visible").count() > 2
    page.click("#close")
    assert not page.is_visible("#viewer")
    assert problems == []


def test_prints_light_and_whole(browser: Any, pages: Path) -> None:
    page, _ = _open(browser, pages / "index.html", DESKTOP, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("#controls")
    assert page.pdf(format="A4").startswith(b"%PDF")

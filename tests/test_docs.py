"""What README.md and docs/ name is there: links, pictures, programs, configurations, scripts."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 150
README_WIDTH = 150

# Not in the repository: written by a command of the same page, or by another package.
WRITTEN_BY_USERS = {"configs/mine.yaml"}
OTHER_PACKAGES = {"pip"}


def missing_links(page: Path) -> list[str]:
    """Return the relative targets of links and pictures of a Markdown page that do not exist."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    return [target for target in targets if "://" not in target and not (page.parent / target).exists()]


def missing_modules(text: str) -> list[str]:
    """Return the modules run by `python -m` that cannot be found."""
    modules = set(re.findall(r"python\s+-m\s+([\w.]+\w)", text)) - OTHER_PACKAGES
    return sorted(name for name in modules if not _module_exists(name))


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def missing_files(text: str) -> list[str]:
    """Return the configurations, the program files and the scripts of the root named in a text that do not exist."""
    files = set(re.findall(r"\b(?:configs/[\w/]+\.yaml|(?:configs|models|utils|scripts|deeplab|tests)/[\w/]+\.py)\b", text))
    written = set(re.findall(r"`([\w/.]+)`:\n\n```", text))  # by the reader, from the page
    named = files - WRITTEN_BY_USERS - written | set(re.findall(r"\./\w+\.sh\b", text))
    return sorted(name for name in named if not (ROOT / name).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    assert missing_links(page) == []
    assert missing_modules(text) == []
    assert missing_files(text) == []


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) ![b](page.md) [c](https://example.org/x.md) [d](gone.md#part)", "utf-8")
    assert missing_links(page) == ["gone.md", "gone.md"]
    runs = "python -m scripts.gone; python -m scripts.train; python -m gone.deep"
    assert missing_modules(runs) == ["gone.deep", "scripts.gone"]
    named = "./gone.sh ./run_demo.sh configs/gone.yaml configs/l2g_voc.yaml utils/gone.py utils/files.py"
    assert missing_files(named) == ["./gone.sh", "configs/gone.yaml", "utils/gone.py"]


def test_readme_is_read_in_three_minutes() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= README_LINES
    assert max(map(len, lines)) <= README_WIDTH

"""Files brought in as links or copies: repeated, replaced, never through a foreign link."""

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.prepare.layout import own_folder, place_files, up_to_date


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "from" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


@pytest.mark.parametrize("how", ["link", "copy"])
def test_placed_once(source: Path, tmp_path: Path, how: str) -> None:
    pairs = [(source, tmp_path / "set" / "images" / "a.jpg")]
    assert place_files(pairs, how, workers=1, what="files") == 1
    assert place_files(pairs, how, workers=1, what="files") == 0
    assert pairs[0][1].read_bytes() == b"first"


def test_one_way_replaces_the_other(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "set" / "images" / "a.jpg"
    for how in ("link", "copy", "link"):
        assert place_files([(source, target)], how, workers=1, what="files") == 1
        assert target.is_symlink() == (how == "link")
    assert source.read_bytes() == b"first"


def test_a_changed_source_is_copied_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "set" / "images" / "a.jpg"
    place_files([(source, target)], "copy", workers=1, what="files")
    source.write_bytes(b"second")
    assert place_files([(source, target)], "copy", workers=1, what="files") == 1
    assert target.read_bytes() == b"second"


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jpg cannot be placed"):
        place_files([(tmp_path / "none.jpg", tmp_path / "set" / "a.jpg")], "copy", workers=1, what="files")


def test_links_are_no_own_folders(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source.parent)
    with pytest.raises(UserError, match="must not be written to"):
        own_folder(tmp_path / "link")
    place_files([(source, tmp_path / "link" / "a.jpg")], "link", workers=1, what="files")
    assert not source.is_symlink()  # the folder is the sources' own: left as it is


def test_up_to_date(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.png"
    assert not up_to_date(target, source)
    target.write_bytes(b"")
    assert up_to_date(target, source)
    target.unlink()
    target.symlink_to(source)
    assert not up_to_date(target, source)

from pathlib import Path

import pytest

from configs.schema import DataConfig
from utils.data.folder import DataFolder
from utils.errors import UserError


def test_paths(tmp_path: Path) -> None:
    data = DataConfig(root=str(tmp_path), image_dir="J", saliency_dir="/elsewhere")
    assert DataFolder.of(data).image("a") == tmp_path / "J" / "a.jpg"
    assert DataFolder.of(data).saliency("a") == Path("/elsewhere/a.png")


def test_missing_files_are_named_and_counted(tmp_path: Path) -> None:
    data = DataConfig(root=str(tmp_path))
    with pytest.raises(UserError, match=r"image folder .*JPEGImages cannot be read .*data.image_dir"):
        DataFolder.of(data).check_images(["a"])
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Sal").mkdir()
    (tmp_path / "JPEGImages" / "c.jpg").touch()
    (tmp_path / "Sal" / "a.png").touch()
    with pytest.raises(UserError, match=r"4 of 5 image files are missing in .*: a.jpg, b.jpg, d.jpg, \.\.\.; check"):
        DataFolder.of(data).check_images("abcde")
    with pytest.raises(UserError, match=r"1 of 2 saliency map files are missing in .*: b.png; check data.saliency_dir"):
        DataFolder.of(data).check_saliency("ab")
    DataFolder.of(data).check_images("c")
    DataFolder.of(data).check_saliency("a")

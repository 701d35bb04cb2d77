"""The data check: every kind of damage is found and named, what is unchanged is not decoded again, training is told."""

import copy
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.schema import Config
from scripts import check_data
from scripts import train as train_l2g
from scripts.check_data import main, parameter_count, run
from tests.tiny_data import tiny_config
from utils.config import save_config
from utils.data.samples import ViewDataset
from utils.errors import UserError
from utils.prepare import check as check_files
from utils.prepare import disk

MINI = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc_mini"


def check_cheaply(cfg: Config) -> list[str]:
    """What scripts.train does before it trains."""
    return disk.check_cheaply(cfg, ViewDataset(cfg.data, cfg.settings, cfg.seed).labels, parameter_count(cfg))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A data set, and a configuration with paths relative to the folder it lies in: made once, used from copies."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, tiny_config(Path(), "check.workers=1")


@pytest.fixture
def cfg(made: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    shutil.copytree(made[0] / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return copy.deepcopy(made[1])


def _root(cfg: Config) -> Path:
    return Path(cfg.data.root)


def _kinds(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {kind["kind"]: (kind["count"], kind["stopping"]) for kind in result["findings"]}


def _png(path: Path, value: int, size: tuple[int, int] = (48, 40)) -> None:
    Image.new("L", size, value).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text().rstrip("\n") + "\n" + text)


def test_sound_data_passes(cfg: Config, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(cfg)
    assert result["training_can_start"]
    assert result["findings"] == []
    assert (result["images"], result["decoded"]) == (6, 6)
    assert json.loads(Path(cfg.check.out).read_text()) == result
    assert result["disk_bytes_needed"]["checkpoints"] > 1e6
    assert "nothing found" in capsys.readouterr().out
    assert check_cheaply(cfg) == []


Damage = Callable[[Path], object]
CASES: list[tuple[Damage, str, int, int]] = [
    (lambda r: (r / "JPEGImages/img_001.jpg").unlink(), "image missing", 1, 1),
    (lambda r: _cut(r / "JPEGImages/img_001.jpg"), "image damaged", 1, 1),
    (lambda r: (r / "Sal/img_001.png").unlink(), "saliency map missing", 1, 1),
    (lambda r: _cut(r / "Sal/img_001.png"), "saliency map damaged", 1, 1),
    (lambda r: _png(r / "Sal/img_001.png", 200, (40, 48)), "saliency map of another size", 1, 1),
    (lambda r: _png(r / "Sal/img_001.png", 0), "saliency map empty", 1, 0),
    (lambda r: (r / "SegmentationClassAug/img_001.png").unlink(), "ground truth missing", 1, 0),
    (lambda r: _png(r / "SegmentationClassAug/img_001.png", 4), "ground truth damaged or out of range", 1, 0),
    (lambda r: _png(r / "SegmentationClassAug/img_001.png", 1, (9, 9)), "ground truth of another size", 1, 0),
    (lambda r: _png(r / "SegmentationClassAug/img_001.png", 255), "class without pixels", 1, 0),
    (lambda r: _append(r / "train_cls.txt", "img_005 9\n"), "list line wrong", 1, 1),
    (lambda r: _append(r / "train_cls.txt", "img_005\n"), "list line wrong", 1, 1),
    (lambda r: _append(r / "train_cls.txt", "img_004 0\nimg_004 1\n"), "id twice in a list", 2, 2),
    (lambda r: (r / "train_cls.txt").unlink(), "list missing or unreadable", 1, 1),
    (lambda r: (r / "train_aug.txt").write_text("/a/b.jpg /c/d.png"), "list line wrong", 1, 0),
    (lambda r: _append(r / "train_aug.txt", "/JPEGImages/x.jpg /Labels/x.png"), "no labels to evaluate with", 1, 0),
    (lambda r: (r / "val_cls.txt").write_text("img_002 0\n"), "in training and validation", 1, 0),
    (lambda r: shutil.copy(r / "JPEGImages/img_000.jpg", r / "JPEGImages/img_003.jpg"), "same picture twice", 1, 0),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "count", "stopping"), CASES, ids=[f"{i}-{c[1]}" for i, c in enumerate(CASES)])
def test_damage_is_found(
    cfg: Config, damage: Damage, kind: str, count: int, stopping: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_data, "parameter_count", lambda cfg: 1000)  # building a network takes longer than all else
    damage(_root(cfg))
    result = run(cfg)
    assert _kinds(result)[kind] == (count, stopping)
    assert result["training_can_start"] == (stopping == 0)


def test_labels_that_do_not_belong_to_the_image(cfg: Config) -> None:
    path = _root(cfg) / "train_cls.txt"
    path.write_text("".join(f"img_{i:03d} {k}\n" for i, k in enumerate((2, 2, 1, 1, 0, 0))))
    kinds = _kinds(run(cfg))
    assert kinds["class missing in the list"][0] > 0
    assert kinds["class without pixels"][0] > 0


def test_same_picture_in_training_and_validation(cfg: Config) -> None:
    root = _root(cfg)
    for folder, end in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png")):
        shutil.copy(root / folder / f"img_000.{end}", root / folder / f"other.{end}")
    (root / "val_aug.txt").write_text("/JPEGImages/other.jpg /SegmentationClassAug/other.png")
    result = run(cfg)
    assert _kinds(result) == {"same picture in training and validation": (1, 0)}
    assert "other is img_000 byte for byte" in result["findings"][0]["first"][0]


def test_only_ten_offenders_are_shown_and_those_that_stop_training_first(
    cfg: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg.check.workers = 2
    lines = [f"missing_{i:02d} 0\n" for i in range(14)]
    (_root(cfg) / "val_cls.txt").write_text("".join(lines[:9]))  # not trained on: does not stop training
    _append(_root(cfg) / "train_cls.txt", "".join(lines[9:]))
    result = run(cfg)
    (kind,) = [kind for kind in result["findings"] if kind["kind"] == "image missing"]
    assert (kind["count"], kind["stopping"], len(kind["first"])) == (14, 5, 10)
    assert all(f"missing_{i:02d}" in "".join(kind["first"][:5]) for i in range(9, 14))
    assert "... and 4 more" in capsys.readouterr().out


def test_unchanged_files_are_not_decoded_again(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _root(cfg)
    _png(root / "Sal/img_002.png", 0)
    first = run(cfg)
    assert first["decoded"] == 6
    again = run(cfg)
    assert (again["decoded"], again["unchanged"]) == (0, 6)
    assert again["findings"] == first["findings"]
    _png(root / "Sal/img_002.png", 90)
    third = run(cfg)
    assert (third["decoded"], third["findings"]) == (1, [])
    # Another question about the same files.
    (root / "train_cls.txt").write_text((root / "train_cls.txt").read_text().replace("img_004 1", "img_004 0 1"))
    changed = run(cfg)
    assert changed["decoded"] <= 1
    cached = Path(cfg.check.cache)
    assert len([line for line in cached.read_text().splitlines() if line]) == 6
    cached.write_text(cached.read_text()[:-30])  # a line cut off by a power failure
    assert run(cfg)["decoded"] == 1


def test_an_interrupted_check_continues(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_data, "CHUNK", 1)
    read, seen = check_files.read_image, []

    def stop_at_fourth(path: Path) -> Any:
        seen.append(path.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(check_files, "read_image", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    result = run(cfg)
    assert result["decoded"] == 3
    assert len(set(seen)) == 6


def test_a_read_only_data_folder_is_checked_without_cache(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.check.cache = str(_root(cfg) / "train_cls.txt" / "cache.jsonl")  # below a file: cannot be made
    assert run(cfg)["decoded"] == 6
    assert run(cfg)["decoded"] == 6


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_before_training(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    result = run(cfg)
    assert _kinds(result) == {"disk too small": (1, 1)}
    with pytest.raises(UserError, match="disk too small: .*checkpoints .* free space or set another run_dir"):
        check_cheaply(cfg)
    # Room for the checkpoints, not for all that follows: a warning.
    needed = result["disk_bytes_needed"]["checkpoints"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed + 1))
    assert len(check_cheaply(cfg)) == 1


def test_training_runs_the_cheap_part(cfg: Config) -> None:
    cfg.train.epochs = 1
    (_root(cfg) / "val_cls.txt").write_text("img_002 0\nimg_003 0\n")
    assert train_l2g.run(cfg) == 0
    (_root(cfg) / "val.txt").write_text("not a list of/images\n")
    assert any("val.txt line 1" in warning for warning in check_cheaply(cfg))
    log = (Path(cfg.run_dir) / "log.txt").read_text()
    assert "2 images of data.train_list are in" in log
    (_root(cfg) / "Sal" / "img_003.png").unlink()
    with pytest.raises(UserError, match="1 of 6 saliency map files are missing"):
        check_cheaply(cfg)


def test_command_line_leaves_with_an_error_when_training_would_fail(cfg: Config, tmp_path: Path) -> None:
    save_config(cfg, tmp_path / "config.yaml")
    main(["--config", str(tmp_path / "config.yaml")])
    _cut(_root(cfg) / "JPEGImages" / "img_000.jpg")
    with pytest.raises(UserError, match=r"training would fail: image damaged \(1\)"):
        main(["--config", str(tmp_path / "config.yaml")])


@pytest.mark.skipif(not MINI.is_dir(), reason="the small VOC subset is not on this machine")
def test_real_pictures_pass(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for folder in ("JPEGImages", "Sal", "SegmentationClassAug"):
        (root / folder).symlink_to((MINI / folder).resolve())
    for name in ("train_cls.txt", "train_aug.txt", "val_cls.txt"):
        (root / name).write_text("\n".join((MINI / name).read_text().splitlines()[:12]) + "\n")
    cfg = tiny_config(tmp_path, "data.num_classes=20", "data.class_names=voc12", "check.workers=1")
    result = run(cfg)
    assert result["findings"] == []
    assert result["images"] == 24
    assert np.isfinite(result["disk_bytes_needed"]["CAMs"])
    assert Path(cfg.check.cache).exists()


def test_labels_from_masks_need_the_masks(cfg: Config) -> None:
    cfg.data.labels_from, cfg.data.label_list = "masks", "none.txt"
    clean = run(cfg)
    assert clean["training_can_start"] and "no labels to train with" not in _kinds(clean)
    masks = sorted((_root(cfg) / "SegmentationClassAug").iterdir())
    masks[0].unlink()
    _png(masks[1], 255)
    kinds = _kinds(run(cfg))
    assert kinds["ground truth missing"] == (1, 1) and kinds["no labels to train with"] == (1, 1)


def test_lists_of_paths_are_followed(cfg: Config) -> None:
    root = _root(cfg)
    (root / "SegmentationClassAug").rename(root / "cls_png")
    lines = (root / "train_aug.txt").read_text().replace("SegmentationClassAug", "cls_png").splitlines()
    path = root / "train_augvoc.txt"
    path.write_text("\n".join(lines[1:]) + "\n")
    cfg.data.train_list = cfg.data.infer_list = cfg.data.eval_list = str(path)
    cfg.data.paths = "lists"
    result = run(cfg)
    assert result["training_can_start"] and result["images"] == len(lines) - 1
    assert _kinds(result) == {"list of another length": (2, 0)}
    (warning,) = check_cheaply(cfg)
    assert warning.endswith(f"train_augvoc.txt holds {len(lines) - 1} images, the published list of this name 10582")
    (root / "train_cls.txt").write_text("img_000 0\n")
    result = run(cfg)
    assert not result["training_can_start"] and _kinds(result)["no labels to train with"] == (5, 5)

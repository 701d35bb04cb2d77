"""The demo set on disk: layout, lists, determinism, continuation, refusal of foreign folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_demo_data import DemoSettings, main, run
from utils.data.classes import palette
from utils.data.lists import read_boxes, read_id_list, read_label_list
from utils.demo_set.creatures import CREATURES
from utils.errors import UserError

SETTINGS = DemoSettings(train=7, val=3, size=48, seed=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    run(out, SETTINGS, workers=1)
    return out


def test_layout_and_lists(demo: Path) -> None:
    labels = read_label_list(demo / "train_cls.txt", len(CREATURES))
    assert list(labels) == read_id_list(demo / "train_aug.txt") == read_id_list(demo / "train.txt")
    assert list(labels) == [f"train_{i:04d}" for i in range(7)]
    assert len(read_label_list(demo / "val_cls.txt", len(CREATURES))) == 3
    assert (demo / "classes.txt").read_text().split() == list(CREATURES)
    for line in (demo / "train_aug.txt").read_text().splitlines():
        assert all((demo / path.lstrip("/")).is_file() for path in line.split())


def test_files_fit_each_other(demo: Path) -> None:
    for id_, classes in read_label_list(demo / "train_cls.txt", len(CREATURES)).items():
        label = Image.open(demo / "SegmentationClassAug" / f"{id_}.png")
        image, saliency = Image.open(demo / "JPEGImages" / f"{id_}.jpg"), Image.open(demo / "Sal" / f"{id_}.png")
        assert (image.mode, label.mode, saliency.mode) == ("RGB", "P", "L")
        assert image.size == label.size == saliency.size == (48, 48)
        assert bytes(label.getpalette() or [])[:63] == palette()[:63]
        assert set(np.unique(np.asarray(label)).tolist()) - {0} == {c + 1 for c in classes}


def test_same_settings_same_bytes_with_processes(demo: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", SETTINGS, workers=2)
    assert contents(tmp_path / "again") == contents(demo)


def test_pictures_do_not_depend_on_the_count(demo: Path, tmp_path: Path) -> None:
    run(tmp_path / "short", DemoSettings(train=2, val=1, size=48, seed=1), workers=1)
    for name in ("JPEGImages/train_0001.jpg", "Sal/val_0000.png"):
        assert (tmp_path / "short" / name).read_bytes() == (demo / name).read_bytes()


def test_interrupted_run_is_continued(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scripts.make_demo_data as program

    out, drawn = tmp_path / "data", []
    draw = program.draw_scene

    def stopping(seed: int, split: str, index: int, size: int, *, alone: bool) -> object:
        drawn.append((split, index))
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(seed, split, index, size, alone=alone)

    monkeypatch.setattr(program, "draw_scene", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(out, SETTINGS, workers=1)
    assert not (out / "train.txt").exists()
    (out / "Sal" / "train_0001.png").unlink()
    run(out, SETTINGS, workers=1)
    assert contents(out) == contents(demo)
    assert drawn.count(("train", 0)) == 1 and drawn.count(("train", 1)) == 2


@pytest.mark.parametrize("change", [{"seed": 2}, {"size": 64}, {"train": 8}, {"val": 2}])
def test_other_settings_are_refused(demo: Path, change: dict[str, int]) -> None:
    before = contents(demo)
    key, value = next(iter(change.items()))
    with pytest.raises(UserError, match=rf"{key} \d+ \(asked: {value}\).*--overwrite"):
        run(demo, DemoSettings(**{**SETTINGS.__dict__, **change}), workers=1)
    assert contents(demo) == before


def test_overwrite_leaves_nothing_of_the_old_set(tmp_path: Path) -> None:
    small = DemoSettings(train=2, val=1, size=32, seed=5)
    run(tmp_path / "a", DemoSettings(train=3, val=1, size=48), workers=1)
    run(tmp_path / "a", small, workers=1, overwrite=True)
    run(tmp_path / "b", small, workers=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_with_other_data_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"no demo\.json"):
            run(tmp_path, SETTINGS, workers=1, overwrite=overwrite)
    (tmp_path / "demo.json").write_text("[")
    with pytest.raises(UserError, match="no manifest"):
        run(tmp_path, SETTINGS, workers=1)


@pytest.mark.parametrize("argv", [["--train", "0"], ["--val", "-1"], ["--size", "8"], ["--size", "5000"], ["--seed", "-1"]])
def test_settings_out_of_range(argv: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=argv[0]):
        main(["--out", str(tmp_path / "x"), *argv])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path / "x"), "--train", "1", "--val", "1", "--size", "32", "--seed", "3", "--workers", "1"])
    assert json.loads((tmp_path / "x" / "demo.json").read_text())["seed"] == 3
    assert "1 training and 1 validation" in capsys.readouterr().out


def test_boxes_are_those_of_the_one_creature(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--train", "6", "--val", "1", "--size", "48", "--task", "boxes", "--workers", "1"])
    boxes = read_boxes(tmp_path / "boxes.txt")
    assert len(boxes) == 7
    for image_id, ((x, y, width, height),) in boxes.items():
        label = np.asarray(Image.open(tmp_path / f"SegmentationClassAug/{image_id}.png"))
        assert len(np.unique(label)) == 2
        inside = label[int(y) : int(y + height), int(x) : int(x + width)]
        assert (inside > 0).sum() == (label > 0).sum()
        assert (inside > 0).any(0).all() and (inside[[0, -1]] > 0).any(1).all()
    with pytest.raises(UserError, match="task boxes .asked: masks"):
        main(["--out", str(tmp_path), "--train", "6", "--val", "1", "--size", "48"])

"""A user's own pictures: labels in three forms, odd files, masks, saliency, and a configuration that trains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts import train as train_l2g
from scripts.build import load_config
from scripts.prepare_custom import CustomSettings, main, run
from utils.data.images import read_image
from utils.data.lists import read_id_list, read_label_list
from utils.errors import UserError

FILES = {"a b.jpg": "cat", "sub/c.png": "dog;cat", "sub/d.JPG": "dog", "e.webp": "cat", "grey.jpg": "dog", "none.jpg": ""}
SIZE = (30, 20)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if name == "grey.jpg" else pixels).save(path)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def _csv(tmp_path: Path, text: str | None = None) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text if text is not None else "file,class\n" + "".join(f"{n},{c}\n" for n, c in FILES.items() if c))
    return path


def _settings(tmp_path: Path, **more: Any) -> CustomSettings:
    labels = more.pop("labels") if "labels" in more else _csv(tmp_path)
    folders = {"images": tmp_path / "photos", "out": tmp_path / "mine", "config": tmp_path / "mine.yaml"}
    return CustomSettings(**{**folders, "labels": labels, "val": 0.2, "workers": 1, **more})


def test_csv(photos: Path, tmp_path: Path) -> None:
    report = run(_settings(tmp_path))
    out = tmp_path / "mine"
    assert (out / "classes.txt").read_text().split() == ["cat", "dog"]
    train, val = read_label_list(out / "train_cls.txt", 2), read_label_list(out / "val_cls.txt", 2)
    assert {**train, **val} == {"a_b": (0,), "sub_c": (0, 1), "sub_d": (1,), "e": (0,), "grey": (1,)}
    assert len(val) == 1
    assert read_id_list(out / "unlabelled.txt") == ["none"]
    assert read_id_list(out / "train_aug.txt") == list(train)
    assert not (out / "val_aug.txt").exists()  # no masks: nothing to evaluate on
    for image_id in (*train, *val, "none"):
        assert read_image(out / "JPEGImages" / f"{image_id}.jpg").size == SIZE
        with Image.open(out / "JPEGImages" / f"{image_id}.jpg") as image:
            assert image.format == "JPEG"
    assert (out / "JPEGImages" / "a_b.jpg").is_symlink() and not (out / "JPEGImages" / "e.jpg").is_symlink()
    assert any("2 converted" in line for line in report)


@pytest.mark.parametrize("form", ["dict", "list", "comma"])
def test_other_forms_give_the_same(photos: Path, tmp_path: Path, form: str) -> None:
    run(_settings(tmp_path))
    expected = (tmp_path / "mine" / "train_cls.txt").read_text()
    path = tmp_path / "labels.json"
    if form == "dict":
        path.write_text(json.dumps({n: c.split(";") for n, c in FILES.items() if c}))
    elif form == "list":
        path.write_text(json.dumps([{"file": Path(n).stem, "classes": c} for n, c in FILES.items()]))
    else:
        path = _csv(tmp_path, "".join(f"{n},{c.replace(';', ',')}\r\n" for n, c in FILES.items()))
    run(_settings(tmp_path, labels=path, out=tmp_path / "again", config=tmp_path / "again.yaml"))
    assert (tmp_path / "again" / "train_cls.txt").read_text() == expected


def test_one_folder_a_class(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(path)
    run(_settings(tmp_path, labels=None, val=0.0))
    assert read_label_list(tmp_path / "mine" / "train_cls.txt", 2) == {"cat_1": (0,), "cat_2": (0,), "dog_1": (1,)}
    Image.new("RGB", SIZE).save(tmp_path / "photos" / "loose.jpg")
    with pytest.raises(UserError, match="'loose.jpg' lies in no class folder"):
        run(_settings(tmp_path, labels=None))


def test_masks_saliency_and_a_configuration_that_trains(photos: Path, tmp_path: Path) -> None:
    for folder in ("masks", "saliency"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        for name in FILES:
            picture = Image.new("L", SIZE, 2 if folder == "masks" else 200)
            picture.save(tmp_path / folder / Path(name).with_suffix(".png"))
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird\n")
    settings = _settings(
        tmp_path, masks=tmp_path / "masks", saliency=tmp_path / "saliency", classes=tmp_path / "classes.txt", place="copy"
    )
    report = run(settings)
    assert any("bird: 0 training pictures; it cannot be learnt" in line for line in report)
    assert len(read_id_list(tmp_path / "mine" / "val_aug.txt")) == 1
    cfg = load_config(
        tmp_path / "mine.yaml",
        [
            f"run_dir={tmp_path / 'run'}", "data.workers=0", "device=cpu", "model.backbone=resnet38",
            "model.width=0.0625", "model.pretrained=", "train.classify_epochs=0",
            "train.epochs=1", "train.batch_size=4", "l2g.input_size=32", "l2g.crop_size=24", "l2g.patches=4",
            "l2g.short_side=32",
        ],
    )  # fmt: skip
    assert (cfg.data.num_classes, cfg.settings.saliency, cfg.pseudo.fusion) == (3, "map", "saliency")
    assert train_l2g.run(cfg) == 0


def test_rotated_photos_become_upright(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(tmp_path / "photos" / "phone.jpg", exif=exif)
    run(_settings(tmp_path, labels=_csv(tmp_path, "phone,cat\n")))
    assert read_image(tmp_path / "mine" / "JPEGImages" / "phone.jpg").size == SIZE[::-1]


def test_again_changes_nothing_and_another_configuration_is_kept(photos: Path, tmp_path: Path) -> None:
    run(_settings(tmp_path))
    stamps = {p: p.lstat().st_mtime_ns for p in (tmp_path / "mine" / "JPEGImages").iterdir()}
    run(_settings(tmp_path, workers=2))
    assert stamps == {p: p.lstat().st_mtime_ns for p in (tmp_path / "mine" / "JPEGImages").iterdir()}
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="is there already and differs"):
        run(_settings(tmp_path))
    run(_settings(tmp_path, overwrite=True))
    assert load_config(tmp_path / "mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lost.jpg,cat\n", "'lost.jpg' is not in the picture folder"),
        ("other/e.webp,cat\n", "'other/e.webp' is not in the picture folder"),
        ("e.webp,cat\ne,dog\n", "line 2: picture 'e' is there twice"),
        ("file,cat,dog,cow\ne.webp,0,1,0\n", "line 2: class '0' is there twice; .*columns of 0 and 1"),
        ("e.webp,\n", "no picture has a class"),
        ("e.webp,bird\n", "class 'bird', which is not among the given 2"),
    ],
)
def test_wrong_labels_are_named(photos: Path, tmp_path: Path, text: str, message: str) -> None:
    classes = None
    if "bird" in text:
        classes = tmp_path / "classes.txt"
        classes.write_text("cat\ndog\n")
    with pytest.raises(UserError, match=message):
        run(_settings(tmp_path, labels=_csv(tmp_path, text), classes=classes))


def test_wrong_files_are_named(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(UserError, match="holds no PNG named like a picture"):
        run(_settings(tmp_path, masks=masks))
    Image.new("L", SIZE[::-1]).save(masks / "e.png")
    with pytest.raises(UserError, match="is 20x30 pixels, expected 30x20"):
        run(_settings(tmp_path, masks=masks))
    Image.new("L", SIZE, 3).save(masks / "e.png")
    with pytest.raises(UserError, match="holds the value 3"):
        run(_settings(tmp_path, masks=masks))
    Image.new("RGB", SIZE).save(photos / "a_b.png")
    with pytest.raises(UserError, match="would both get the id 'a_b'"):
        run(_settings(tmp_path))
    (photos / "a_b.png").unlink()
    (photos / "e.webp").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"e\.webp is damaged or no image"):
        run(_settings(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        run(_settings(tmp_path, images=tmp_path / "empty"))


def test_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, config = tmp_path / "mine", tmp_path / "mine.yaml"
    main(
        ["--images", str(photos), "--labels", str(_csv(tmp_path)), "--out", str(out), "--config", str(config), "--workers", "1"]
    )
    assert f"next: python -m scripts.check_data --config {config}" in capsys.readouterr().out


def test_what_is_no_csv_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv cannot be read \(field larger than field limit"):
        run(_settings(tmp_path, labels=_csv(tmp_path, f"e.webp,{'c' * 140_000}\n")))
    with pytest.raises(UserError, match=r"labels\.csv holds NUL bytes"):
        run(_settings(tmp_path, labels=_csv(tmp_path, "e.webp,c\0at\n")))


def test_half_written_pictures_of_a_killed_run_go(photos: Path, tmp_path: Path) -> None:
    out = _settings(tmp_path).out
    left = [out / name / ".e.7-0f.tmp.jpg" for name in ("JPEGImages", "")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run(_settings(tmp_path))
    assert not any(path.exists() for path in left)

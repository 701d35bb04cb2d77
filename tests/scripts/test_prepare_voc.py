"""From miniature official downloads to the data folder: lists, masks, links and copies, continuation, bad input."""

import dataclasses
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("scipy")

from configs.schema import DataConfig
from scripts import prepare_voc
from scripts.prepare_voc import VocSettings, main, run
from tests.official_voc import MASK_CLASSES, SBD_ONLY, TRAIN, VAL, mask_of, write_sbd, write_sbd_mask, write_voc
from utils.data.classes import palette
from utils.data.folder import read_labels
from utils.data.images import read_label_map
from utils.data.lists import read_id_list, read_label_list, write_label_array
from utils.errors import UserError
from utils.prepare.voc import read_sbd_mask

AUG = sorted([*TRAIN, *SBD_ONLY])
MINI = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc_mini"


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (".lock",) and "unpacked" not in p.parts
    }


@pytest.fixture
def settings(tmp_path: Path) -> VocSettings:
    return VocSettings(write_voc(tmp_path), tmp_path / "out", write_sbd(tmp_path), workers=1)


def test_lists_have_the_published_formats(settings: VocSettings) -> None:
    run(settings)
    out = settings.out
    assert (out / "train_cls.txt").read_text().splitlines()[0] == "2007_000032 0 14 "
    assert (out / "train_cls.txt").read_text().endswith(" \n")
    assert (out / "train_aug.txt").read_text().splitlines()[
        0
    ] == "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png"
    assert not (out / "train_aug.txt").read_text().endswith("\n")
    labels = read_label_list(out / "train_cls.txt", 20)
    assert list(labels) == AUG == read_id_list(out / "train_aug.txt")
    assert labels == {i: MASK_CLASSES[i] for i in AUG}
    assert read_id_list(out / "train.txt") == TRAIN
    assert (
        read_id_list(out / "val.txt")
        == read_id_list(out / "val_aug.txt")
        == list(read_label_list(out / "val_cls.txt", 20))
        == VAL
    )
    assert (out / "labels.txt").read_text().splitlines()[20] == "20\ttvmonitor"


def test_masks_of_voc_take_precedence_and_sbd_becomes_palette_png(settings: VocSettings) -> None:
    run(settings)
    for image_id in [*AUG, *VAL]:
        with Image.open(settings.out / "SegmentationClassAug" / f"{image_id}.png") as mask:
            assert mask.mode == "P"
            assert bytes(mask.getpalette() or [])[:63] == palette()[:63]
            expected = mask_of(image_id, border=image_id not in SBD_ONLY)
            np.testing.assert_array_equal(np.asarray(mask), expected)


def test_cls_png_holds_the_masks_of_sbd_alone(settings: VocSettings) -> None:
    assert settings.sbd is not None
    report = run(dataclasses.replace(settings, cls_png=True))
    folder = settings.sbd / "dataset" / "cls_png"
    written = sorted(folder.glob("*.png"))
    assert [path.stem for path in written] == sorted(path.stem for path in (settings.sbd / "dataset" / "cls").glob("*.mat"))
    assert {*TRAIN, *VAL} & {path.stem for path in written}
    for path in written:
        np.testing.assert_array_equal(read_label_map(path, 20), read_sbd_mask(folder.parent / "cls" / f"{path.stem}.mat"))
    assert report[-1] == f"{len(written)} of SBD's masks in {folder}"


def test_cls_png_needs_the_matlab_files(settings: VocSettings) -> None:
    with pytest.raises(UserError, match="--cls-png needs SBD's .mat files"):
        run(dataclasses.replace(settings, sbd=None, cls_png=True))
    assert not (settings.out / "train_aug.txt").exists()


def test_labels_from_xml_hold_what_the_masks_miss(settings: VocSettings, tmp_path: Path) -> None:
    report = run(VocSettings(settings.voc, tmp_path / "xml", settings.sbd, labels="xml", workers=1))
    labels = read_label_list(tmp_path / "xml" / "train_cls.txt", 20)
    assert labels["2008_000008"] == (8, 12, 14)
    assert labels["2007_000032"] == MASK_CLASSES["2007_000032"]
    assert any("XML" in line for line in report)
    both = read_label_list(tmp_path / "xml" / "cls_labels.npy", 20)
    assert both == labels | read_label_list(tmp_path / "xml" / "val_cls.txt", 20)
    assert "person 2 (published 4155)" in "".join(report) and "person 1 (published 445)" in "".join(report)
    data = DataConfig(root="", label_list=str(tmp_path / "xml" / "cls_labels.npy"))
    assert read_labels(data, str(tmp_path / "xml" / "train_aug.txt")) == labels
    (tmp_path / "ids.txt").write_text("\n".join(labels))  # the published list
    assert read_labels(data, str(tmp_path / "ids.txt")) == labels


def test_other_names_than_vocs_stay_texts(tmp_path: Path) -> None:
    labels = {"cat_1": (0, 2), "2007_000032": (1,), "7_1": (2,)}
    write_label_array(tmp_path / "cls_labels.npy", labels, 3)
    assert read_label_list(tmp_path / "cls_labels.npy", 3) == labels
    entries = np.load(tmp_path / "cls_labels.npy", allow_pickle=True).item()
    assert [type(name) for name in entries] == [str, np.int32, str] and entries[2007000032].dtype == np.float32


def test_report_compares_with_the_published_lists(settings: VocSettings) -> None:
    report = "\n".join(run(settings))
    assert "train_cls.txt       4 lines (published 10582), SHA-1 DIFFERS" in report
    assert "6 labels on 4 images; 20 of 20 classes differ from the published table: person 2 (published 3898)" in report


def test_links_or_copies(settings: VocSettings, tmp_path: Path) -> None:
    saliency = tmp_path / "maps"
    saliency.mkdir()
    for image_id in MASK_CLASSES:
        Image.new("L", (20, 14)).save(saliency / f"{image_id}.png")
    run(VocSettings(settings.voc, tmp_path / "a", settings.sbd, saliency, workers=1))
    run(VocSettings(settings.voc, tmp_path / "b", settings.sbd, saliency, images="copy", workers=1))
    link, copy = (tmp_path / name / "JPEGImages" / f"{AUG[0]}.jpg" for name in "ab")
    assert link.is_symlink() and not copy.is_symlink()
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert len(list((tmp_path / "b" / "Sal").glob("*.png"))) == 6
    (settings.voc / "JPEGImages" / f"{AUG[0]}.jpg").unlink()
    assert copy.exists() and not link.exists()


def test_archives_give_the_same_as_folders(settings: VocSettings, tmp_path: Path) -> None:
    run(settings)
    assert settings.sbd is not None
    with tarfile.open(tmp_path / "voc.tar", "w") as archive:
        archive.add(settings.voc.parents[0], "VOCdevkit")
    with tarfile.open(tmp_path / "sbd.tgz", "w:gz") as archive:
        archive.add(settings.sbd, "benchmark_RELEASE")
    out = tmp_path / "from_tar"
    from_tar = VocSettings(tmp_path / "voc.tar", out, tmp_path / "sbd.tgz", workers=2)
    run(from_tar)
    assert _contents(out) == _contents(settings.out)
    assert not (out / "unpacked" / "voc" / "VOCdevkit" / "VOC2012" / "SegmentationObject").exists()
    out.rename(tmp_path / "moved")  # links inside one folder are relative
    assert (tmp_path / "moved" / "JPEGImages" / f"{AUG[0]}.jpg").exists()


def test_an_archive_that_leaves_its_folder_is_refused(settings: VocSettings, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "voc.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages/../../../../evil.jpg"))
    with pytest.raises(UserError, match="is no official archive: .*outside the destination"):
        run(VocSettings(tmp_path / "voc.tar", tmp_path / "out", None, workers=1))
    assert not list(tmp_path.rglob("evil.jpg"))


def test_interrupted_preparation_continues(settings: VocSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = VocSettings(settings.voc, tmp_path / "whole", settings.sbd, workers=1)
    run(whole)
    converted: list[str] = []
    read = prepare_voc.read_mask

    def stop_at_second(path: Path) -> Any:
        if converted:
            raise KeyboardInterrupt
        converted.append(path.name)
        return read(path)

    monkeypatch.setattr(prepare_voc, "read_mask", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert not (settings.out / "train_cls.txt").exists()

    def note(path: Path) -> Any:
        converted.append(path.name)
        return read(path)

    monkeypatch.setattr(prepare_voc, "read_mask", note)
    run(settings)
    assert converted == [f"{i}.mat" for i in SBD_ONLY]  # each one once
    assert _contents(settings.out) == _contents(tmp_path / "whole")


def test_a_changed_source_is_converted_again(settings: VocSettings) -> None:
    run(settings)
    assert settings.sbd is not None
    path = settings.sbd / "dataset" / "cls" / f"{SBD_ONLY[0]}.mat"
    write_sbd_mask(path, np.full((14, 20), 5, np.uint8))
    later = (settings.out / "SegmentationClassAug" / f"{SBD_ONLY[0]}.png").stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))
    run(settings)
    assert read_label_list(settings.out / "train_cls.txt", 20)[SBD_ONLY[0]] == (4,)


def test_without_sbd(settings: VocSettings) -> None:
    report = run(VocSettings(settings.voc, settings.out, workers=1))
    assert read_id_list(settings.out / "train_aug.txt") == TRAIN
    assert any("no --sbd" in line for line in report)


def test_a_folder_of_png_masks_instead_of_sbd(settings: VocSettings, tmp_path: Path) -> None:
    run(settings)
    masks = settings.out / "SegmentationClassAug"
    run(VocSettings(settings.voc, tmp_path / "again", masks, images="copy", workers=1))
    assert _contents(tmp_path / "again" / "SegmentationClassAug") == _contents(masks)
    assert (tmp_path / "again" / "train_cls.txt").read_bytes() == (settings.out / "train_cls.txt").read_bytes()


def test_a_linked_folder_is_not_written_through(settings: VocSettings) -> None:
    settings.out.mkdir()
    (settings.out / "JPEGImages").symlink_to(settings.voc / "JPEGImages")  # as data/README.md proposes
    (settings.out / "SegmentationClassAug").symlink_to(settings.voc / "SegmentationClass")
    before = _contents(settings.voc)
    with pytest.raises(UserError, match="SegmentationClassAug is a link"):
        run(settings)
    (settings.out / "SegmentationClassAug").unlink()
    run(settings)
    assert _contents(settings.voc) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda voc, sbd: (voc / "JPEGImages" / f"{AUG[1]}.jpg").unlink(), r"\.jpg is missing \(1 of 6 JPEGImages"),
        (lambda voc, sbd: (sbd / "dataset/cls" / f"{SBD_ONLY[0]}.mat").write_bytes(b"x" * 300), "no SBD class file"),
        (
            lambda voc, sbd: write_sbd_mask(sbd / "dataset/cls" / f"{SBD_ONLY[0]}.mat", np.zeros((9, 9), np.uint8)),
            "9x9 pixels but .* is 20x14",
        ),
        (
            lambda voc, sbd: write_sbd_mask(sbd / "dataset/cls" / f"{SBD_ONLY[0]}.mat", np.full((14, 20), 31, np.uint8)),
            "holds the value 31",
        ),
        (lambda voc, sbd: (voc / "ImageSets/Segmentation/val.txt").unlink(), "val.txt cannot be read"),
    ],
)
def test_bad_input_is_named(settings: VocSettings, damage: Any, message: str) -> None:
    damage(settings.voc, settings.sbd)
    with pytest.raises(UserError, match=message):
        run(settings)


def test_wrong_paths_are_named(settings: VocSettings, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no archive")
    for wrong, message in ((tmp_path / "none", "does not exist"), (tmp_path / "note.txt", "neither a folder nor a tar")):
        with pytest.raises(UserError, match=message):
            run(VocSettings(wrong, settings.out, workers=1))
    with pytest.raises(UserError, match="is no VOC 2012 folder"):
        run(VocSettings(tmp_path / "benchmark_RELEASE", settings.out, workers=1))
    with pytest.raises(UserError, match="is no SBD folder"):
        run(VocSettings(settings.voc, settings.out, settings.voc, workers=1))


def test_missing_scipy_is_one_sentence(settings: VocSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match="python -m pip install scipy"):
        run(settings)


def test_command_line(settings: VocSettings, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--voc", str(settings.voc), "--sbd", str(settings.sbd), "--out", str(settings.out), "--workers", "1"])
    assert "4 training and 2 validation images" in capsys.readouterr().out


@pytest.mark.skipif(not MINI.is_dir(), reason="the small VOC subset is not on this machine")
def test_real_masks_give_the_list_beside_them(tmp_path: Path) -> None:
    """The subset dressed as an official download: the derived labels must be those of its own list."""
    voc = tmp_path / "VOC2012"
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for link, folder in (("JPEGImages", "JPEGImages"), ("SegmentationClass", "SegmentationClassAug")):
        (voc / link).symlink_to((MINI / folder).resolve())
    expected = {name: read_label_list(MINI / f"{name}_cls.txt", 20) for name in ("train", "val")}
    for name, labels in expected.items():
        ids = [*labels][:20]
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    run(VocSettings(voc, tmp_path / "out", saliency=MINI / "Sal", workers=1))
    for name, labels in expected.items():
        derived = read_label_list(tmp_path / "out" / f"{name}_cls.txt", 20)
        assert derived == {i: labels[i] for i in [*labels][:20]}

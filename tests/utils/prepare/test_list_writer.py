"""Lists in the published formats, and what is said about them."""

import hashlib
from pathlib import Path

import pytest

from utils.prepare import layout as published_lists
from utils.prepare.layout import (
    PUBLISHED_COUNTS,
    PUBLISHED_LINES,
    compare_counts,
    images_per_class,
    label_lines,
    pair_lines,
    write_list,
)

LABELS = {"2007_000032": (14, 0), "2007_000039": (19,)}


def test_published_formats() -> None:
    assert label_lines(LABELS, trailing_space=True) == "2007_000032 0 14 \n2007_000039 19 \n"
    assert label_lines(LABELS) == "2007_000032 0 14\n2007_000039 19\n"
    pairs = pair_lines(LABELS, "SegmentationClassAug", final_newline=False)
    assert pairs.splitlines()[1] == "/JPEGImages/2007_000039.jpg /SegmentationClassAug/2007_000039.png"
    assert not pairs.endswith("\n")


def test_the_published_file_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = label_lines(LABELS)
    digest = hashlib.sha1(text.encode()).hexdigest()
    monkeypatch.setitem(published_lists.PUBLISHED_SHA1, "voc12", {"train_cls.txt": digest})
    assert "SHA-1 equal to" in write_list(tmp_path / "train_cls.txt", text, "voc12")
    assert "SHA-1 DIFFERS from" in write_list(tmp_path / "train_cls.txt", text + "\n", "voc12")
    assert "SHA-1" not in write_list(tmp_path / "val.txt", text, "voc12")
    assert "published" not in write_list(tmp_path / "train_cls.txt", text)


def test_counts_against_the_published_table(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{k}" for k in range(20)]
    assert images_per_class(LABELS, 20)[14] == 1
    assert "20 of 20 classes differ" in compare_counts(LABELS, names, "voc12", "train_cls.txt")
    monkeypatch.setitem(PUBLISHED_COUNTS, "voc12", {"train_cls.txt": tuple(images_per_class(LABELS, 20))})
    assert "equal the published table (3 labels)" in compare_counts(LABELS, names, "voc12", "train_cls.txt")
    assert compare_counts(LABELS, names, "", "train_cls.txt") == "train_cls.txt: 3 labels on 2 images"


def test_the_published_tables_hold_together() -> None:
    assert sum(PUBLISHED_COUNTS["voc12"]["train_cls.txt"]) == 15555
    for dataset, length in (("voc12", 20), ("coco14", 80)):
        for name, counts in PUBLISHED_COUNTS[dataset].items():
            assert len(counts) == length
            assert max(counts) < PUBLISHED_LINES[dataset][name] < sum(counts)

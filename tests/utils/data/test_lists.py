import os
from pathlib import Path

import numpy as np
import pytest

from utils.data.lists import file_of, holds_paths, ids_of, read_id_list, read_label_list, read_paths
from utils.errors import UserError


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_labels_in_file_order_and_sorted(tmp_path: Path) -> None:
    path = write(tmp_path, "2007_000032 0 14 \nb 3 1\na.x 19")
    labels = read_label_list(path, 20)
    assert list(labels.items()) == [("2007_000032", (0, 14)), ("b", (1, 3)), ("a.x", (19,))]


def test_windows_line_ends_mark_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfa 0 1\r\n\r\n  \r\nb 2\r\n")
    assert read_label_list(path, 3) == {"a": (0, 1), "b": (2,)}
    assert read_id_list(path) == ["a", "b"]


def test_bare_ids_only_where_labels_are_not_required(tmp_path: Path) -> None:
    path = write(tmp_path, "a 1\nb\n")
    assert read_label_list(path, 2, labels_required=False) == {"a": (1,), "b": ()}
    with pytest.raises(UserError, match=r"list.txt line 2: 'b' has no classes"):
        read_label_list(path, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 0\nb 20\n", "line 2: class 20 is out of range; expected 0 to 19"),
        ("a -1\n", "line 1: class -1 is out of range"),
        ("a 0\n\nb dog\n", "line 3: class 'dog' is not an integer"),
        ("a 1.0\n", "'1.0' is not an integer"),
        ("a 1_0\n", "'1_0' is not an integer"),
        ("a \u0663\n", "is not an integer"),
        ("a 0\nb 0\na 1\n", "line 3: id 'a' is there twice"),
        ("a 1\nb 2 0 2\n", "line 2: class 2 is there twice; name each class once"),
        ("a 0 1 0 0 0 1\n", "columns of 0 and 1, one a class, write the numbers of those that hold 1 instead: '1 5'"),
        ("../a 0\n", "line 1: '../a' is not an image id"),
        ("/etc/a 0\n", "line 1: '/etc/a' is not an image id"),
        ("x\\a 0\n", "is not an image id"),
        (".. 0\n", "is not an image id"),
        ("", "is empty"),
        ("\r\n \n", "is empty"),
        (b"\xff\xfea\x00", "not UTF-8"),
    ],
)
def test_wrong_label_lists(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match="list.txt") as raised:
        read_label_list(write(tmp_path, content), 20)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("read", [read_id_list, lambda p: read_label_list(p, 2)])
def test_missing_list(tmp_path: Path, read: object) -> None:
    with pytest.raises(UserError, match=r"none.txt cannot be read \(No such file"):
        read(tmp_path / "none.txt")  # type: ignore[operator]


def test_paths_may_lie_deep(tmp_path: Path) -> None:
    line = "voc/VOCdevkit/VOC2012/JPEGImages/{0}.jpg voc/VOCdevkit/VOC2012/SegmentationClassAug/{0}.png\n"
    assert read_id_list(write(tmp_path, line.format("a") + line.format("b"))) == ["a", "b"]


SBD = "sbd/benchmark_RELEASE/dataset/img/{0}.jpg sbd/benchmark_RELEASE/dataset/cls_png/{0}.png\n"


def test_a_list_says_where_its_files_are(tmp_path: Path) -> None:
    path = write(tmp_path, SBD.format("2008_007573") + SBD.format("2008_000002") + "voc_test/JPEGImages/t.jpg\ne\n")
    found = read_paths(path, Path("/data"))
    assert list(found) == ["2008_007573", "2008_000002", "t", "e"]
    image, labels = found["2008_007573"] or (None, None)
    assert image and labels
    assert str(file_of(image, "2008_007573", ".jpg")) == "/data/sbd/benchmark_RELEASE/dataset/img/2008_007573.jpg"
    assert str(file_of(labels, "2008_007573", ".png")) == "/data/sbd/benchmark_RELEASE/dataset/cls_png/2008_007573.png"
    assert found["2008_000002"] is found["2008_007573"]  # costs nothing more to send to a worker
    assert found["t"] == (Path("/data/voc_test/JPEGImages/{id}.jpg"), None) and found["e"] is None
    assert holds_paths(path) and not holds_paths(write(tmp_path, "a 0\n"))


@pytest.mark.parametrize("image_id", ["gpj", "jpg", "2008_pjg", "a.jpg"])
def test_only_the_suffix_is_taken_off(tmp_path: Path, image_id: str) -> None:
    """A published loader stripped the characters of '.jpg' and found no file for such ids."""
    path = write(tmp_path, f"img/{image_id}.jpg cls_png/{image_id}.png\n")
    assert read_id_list(path) == [image_id]


def test_names_with_the_id_in_them(tmp_path: Path) -> None:
    where = tmp_path / "COCO_val2014_{id}.jpg"
    assert file_of(where, "000000057870", ".jpg") == tmp_path / "COCO_val2014_000000057870.jpg"
    for name in ("COCO_val2014_2.jpg", "COCO_val2014_1.jpg", "COCO_train2014_3.jpg", "COCO_val2014_4.png"):
        (tmp_path / name).touch()
    assert ids_of(where, ".jpg") == ["1", "2"]
    assert ids_of(tmp_path, ".png") == ["COCO_val2014_4"]
    assert ids_of(tmp_path / "none", ".jpg") == []


def _save(path: Path, labels: object) -> Path:
    np.save(path, np.array(labels, dtype=object), allow_pickle=True)
    return path


def test_arrays_of_labels(tmp_path: Path) -> None:
    rows = {2007000032: np.array([0, 1, 1], np.float32), 2008000001: np.array([1, 0, 0], np.float32)}
    path = _save(tmp_path / "cls_labels.npy", rows)
    assert read_label_list(path, 3) == {"2007_000032": (1, 2), "2008_000001": (0,)}
    named = _save(tmp_path / "named.npy", {"b": np.ones(2), "a": np.zeros(2)})
    assert read_id_list(named) == ["b", "a"]
    with pytest.raises(UserError, match=r"entry 2: 'a' has no classes"):
        read_label_list(named, 2)
    with pytest.raises(UserError, match="class 2 is out of range"):
        read_label_list(path, 2)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_arrays_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = _save(tmp_path / "bad.npy", {1: _Harmful()})
    with pytest.raises(UserError, match=r"it wants posix\.system, which is not allowed"):
        read_label_list(path, 3)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array at all"])
def test_damaged_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cut.npy is no dictionary"):
        read_id_list(path)
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="cut.npy is no dictionary"):
        read_id_list(path)


def test_ids_of_every_form(tmp_path: Path) -> None:
    lines = ["/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png", "JPEGImages/b.c.jpg", "d 0 14", "e"]
    assert read_id_list(write(tmp_path, "\n".join(lines))) == ["2007_000032", "b.c", "d", "e"]


@pytest.mark.parametrize(
    "line",
    [
        "/JPEGImages/../a.jpg /X/a.png",
        "/../a.jpg /X/a.png",
        "/a.jpg /X/a.png",
        "JPEGImages/a.jpg X/a.png Y/a.png",
        "/JPEGImages/a.jpg /X/b.png",
        "a b",
        "..",
        "/JPEGImages/...jpg",
        "a 0\na 1",
        "/JPEGImages/a.jpg /X/a.png\na",
    ],
)
def test_wrong_id_lists(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"list.txt line \d"):
        read_id_list(write(tmp_path, line))

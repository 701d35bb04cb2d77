from pathlib import Path

import numpy as np
import pytest

from tests.evaluation_set import make_config, write_set
from utils.cams.store import chunked, read_labelled_ids
from utils.errors import UserError

MAP = np.zeros((4, 5), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path, {"a_0": (MAP, {0: MAP, 2: MAP}, None), "b": (MAP, {1: MAP}, None), "c": (MAP, {}, None)})
    return tmp_path


def test_labels_are_joined_by_id(root: Path) -> None:
    # The two lists are in opposite orders.
    assert read_labelled_ids(make_config(root, 3), root / "cams") == [("a_0", (0, 2)), ("b", (1,)), ("c", ())]


def test_predicted_classes_are_those_with_a_file(root: Path) -> None:
    (root / "cams" / "b_1.png").unlink()
    (root / "cams" / "notes_x.png").touch()
    tasks = read_labelled_ids(make_config(root, 3, "cam.labels=predict"), root / "cams")
    assert tasks == [("a_0", (0, 2)), ("b", ()), ("c", ())]


def test_missing_files_are_named(root: Path) -> None:
    (root / "cams" / "a_0_2.png").unlink()
    with pytest.raises(UserError, match=r"a_0_2\.png is missing \(1 missing in all\)"):
        read_labelled_ids(make_config(root, 3), root / "cams")
    with pytest.raises(UserError, match="nowhere"):
        read_labelled_ids(make_config(root, 3), root / "nowhere")


def test_an_id_without_labels_line_is_named(root: Path) -> None:
    (root / "train_cls.txt").write_text("a_0 0 2\nc\n")
    with pytest.raises(UserError, match=r"train_cls\.txt has no line for .*'b'"):
        read_labelled_ids(make_config(root, 3), root / "cams")


def test_chunks_cover_everything_in_order() -> None:
    tasks = [(str(i), ()) for i in range(5)]
    assert [len(chunk) for chunk in chunked(tasks, 2)] == [2, 2, 1]
    assert [task for chunk in chunked(tasks, 2) for task in chunk] == tasks

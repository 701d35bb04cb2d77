"""CAM files of other programs: read exactly, and never run."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.cams.dictionaries import classes_of, read_dictionary
from utils.cams.store import classes_on_disk, read_cams, read_scores, read_small
from utils.errors import UserError

SIZE = (10, 7)  # (W, H)
FULL = np.linspace(0, 1, 2 * 70, dtype=np.float32).reshape(2, 7, 10)
SMALL = np.linspace(0, 1, 2 * 6, dtype=np.float32).reshape(2, 2, 3)


def _irn(folder: Path, **changes: Any) -> Path:
    """Write what IRNet writes: a pickled dictionary with torch tensors in an array of objects."""
    content = {"keys": torch.tensor([4, 14]), "cam": torch.from_numpy(SMALL), "high_res": FULL, **changes}
    path = folder / "a.npy"
    np.save(path, {key: value for key, value in content.items() if value is not None})  # type: ignore[arg-type]
    return path


def test_irn_dictionaries_are_read_exactly(tmp_path: Path) -> None:
    path = _irn(tmp_path)
    found = read_dictionary(path)
    assert found.classes == (4, 14) == classes_of(path)
    assert found.small is not None and np.array_equal(found.full, FULL) and np.array_equal(found.small, SMALL)
    assert classes_on_disk(tmp_path, 20) == {"a": (4, 14)}
    (scores,), background = read_scores(tmp_path, "a", [14], SIZE)
    assert np.array_equal(scores, FULL[1]) and background is None
    assert np.array_equal(read_small(tmp_path, "a", [14, 4], SIZE), SMALL[::-1])
    assert np.array_equal(read_cams(tmp_path, "a", [4], SIZE)[0], np.rint(FULL[0] * 255))


@pytest.mark.parametrize("name", ["hr_cam", "rw"])
def test_affinitynets_keys_are_labels(tmp_path: Path, name: str) -> None:
    path = _irn(tmp_path, keys=np.array([0, 5, 15]), high_res=None, **{name: FULL}, **({"cam": None} if name == "rw" else {}))
    found = read_dictionary(path)
    assert found.classes == (4, 14) == classes_of(path)
    assert np.array_equal(found.full, FULL)
    assert (found.small is None) == (name == "rw")


def test_arrays_instead_of_tensors_and_half_precision_are_read(tmp_path: Path) -> None:
    path = _irn(tmp_path, keys=np.array([4, 14]), cam=torch.from_numpy(SMALL).half())
    small = read_dictionary(path).small
    assert small is not None and np.allclose(small, SMALL, atol=1e-3)


def test_small_maps_are_means_where_a_file_has_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", classes=np.array([4, 14]), cam=FULL)
    small = read_small(tmp_path, "b", [4], SIZE)
    assert small.shape == (1, 2, 3)
    np.testing.assert_allclose(small[0, 0, 0], FULL[0, :4, :4].mean(), rtol=1e-6)
    np.testing.assert_allclose(small[0, 1, 2], np.pad(FULL[0], ((0, 1), (0, 2)), mode="edge")[4:, 8:].mean(), rtol=1e-6)


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/this_must_not_happen",)


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    mark = Path("/tmp/this_must_not_happen")
    path = _irn(tmp_path, extra=_Attack())
    with pytest.raises(UserError, match=r"would run posix\.system when it is read"):
        read_dictionary(path)
    # A tensor's numbers are a pickle inside the pickle.
    inner = pickle.dumps(_Attack(), protocol=2)
    path = _irn(tmp_path, cam=_Storage(inner))
    with pytest.raises(UserError, match="cannot be read|is damaged"):
        read_dictionary(path)
    assert not mark.exists()


class _Storage:
    """Pickles as a tensor's numbers do, with other bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.content,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cam": None, "high_res": None}, "expected classes or keys, and cam"),
        ({"keys": torch.tensor([4])}, "holds 1 classes but 2 maps"),
        ({"high_res": FULL * np.float32("nan")}, "high_res holds NaN"),
        ({"high_res": FULL * 3}, r"high_res lies in \[0, 3\], expected \[0, 1\]"),
        ({"cam": torch.zeros(2, 4)}, "cam has shape"),
        ({"cam": torch.from_numpy(SMALL).long()}, "of int64, expected 3 dimensions of floating-point numbers"),
    ],
)
def test_wrong_contents_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = _irn(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_dictionary(path)


def test_maps_of_another_picture_are_told(tmp_path: Path) -> None:
    _irn(tmp_path)
    with pytest.raises(UserError, match=r"expected classes \[4\] of \(8, 10\) pixels"):
        read_small(tmp_path, "a", [4], (10, 8))
    _irn(tmp_path, cam=torch.zeros(2, 3, 3))
    with pytest.raises(UserError, match=r"cam has \(3, 3\) cells, expected \(2, 3\)"):
        read_small(tmp_path, "a", [4], SIZE)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 no zip"])
def test_damaged_files_are_told(tmp_path: Path, content: bytes) -> None:
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read|is damaged"):
            read_dictionary(tmp_path / name)


def test_a_bare_array_is_no_dictionary(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FULL)
    with pytest.raises(UserError, match="holds no dictionary"):
        read_dictionary(tmp_path / "a.npy")

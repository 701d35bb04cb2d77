"""Files that hold all maps of an image: our `<id>.npz`, and the `<id>.npy` of IRNet and the programs that follow it.

Theirs are pickles, which can run any code. Here they are read by an unpickler that builds arrays and tensors and nothing else.
"""

import codecs
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError, damage
from utils.files import only_file

SUFFIXES = (".npz", ".npy")
# Input pixels per cell of small maps (IRNet's grid).
CELL = 4
# The names under which programs store classes: ours, IRNet's.
CLASS_KEYS = ("classes", "keys")
# And maps of full size: IRNet's; AffinityNet's before and after its walk, whose keys are label values from 0, background, on.
FULL_KEYS = ("high_res", "hr_cam", "rw")
# Maps are divided by a maximum plus a little; rounding may carry them past 1.
MOST = 1 + 1e-3


@dataclass(frozen=True)
class Dictionary:
    """The maps of an image, float32 in [0, 1], in the order of `classes`, 0-based.

    Attributes:
        full: (K, H, W).
        small: (K, ceil(H / 4), ceil(W / 4)), None where the file has none.
        background: (H, W), likewise.
        scores: logits of all classes, likewise.
    """

    classes: tuple[int, ...]
    full: NDArray[np.float32]
    small: NDArray[np.float32] | None
    background: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None


def read_dictionary(path: Path) -> Dictionary:
    """Read `<id>.npz` or `<id>.npy`: classes (or keys) and cam, of full size, or high_res (hr_cam, rw) and perhaps cam, small.

    Raises:
        UserError: for a file that cannot be read, holds something else than arrays, lacks maps, or has values that are not
            finite or not in [0, 1].
    """
    content = _read(path)
    indices, name = _classes_in(content), next((key for key in FULL_KEYS if key in content), "cam")
    if indices is None or name not in content:
        raise UserError(f"{path} holds {', '.join(sorted(content)) or 'nothing'}; expected {' or '.join(CLASS_KEYS)}, and cam")
    full = _maps(path, name, content[name], 3)
    small = _maps(path, "cam", content["cam"], 3) if name != "cam" and "cam" in content else None
    background = _maps(path, "background", content["background"], 2) if "background" in content else None
    if any(len(maps) != len(indices) for maps in (small, full) if maps is not None):
        raise UserError(f"{path} holds {len(indices)} classes but {len(full)} maps; make it anew")
    scores = np.asarray(content["scores"], np.float32) if "scores" in content else None
    return Dictionary(indices, full, small, background, scores)


def classes_of(path: Path) -> tuple[int, ...]:
    """Return the classes a file holds maps of; errors as of `read_dictionary`."""
    return _classes_in(_read(path, keys=CLASS_KEYS)) or ()


def _classes_in(content: dict[str, Any]) -> tuple[int, ...] | None:
    found = next((content[key] for key in CLASS_KEYS if key in content), None)
    if found is None:
        return None
    values = tuple(int(k) for k in np.asarray(found).reshape(-1))
    labels = content.keys() & set(FULL_KEYS[1:]) and values[:1] == (0,)
    return tuple(value - 1 for value in values[1:]) if labels else values


def _maps(path: Path, name: str, values: Any, dimensions: int) -> NDArray[np.float32]:
    maps = np.asarray(values)
    if maps.ndim != dimensions or maps.dtype.kind != "f":
        raise UserError(
            f"{path}: {name} has shape {maps.shape} of {maps.dtype}, expected {dimensions} dimensions of "
            "floating-point numbers; make it anew"
        )
    maps = maps.astype(np.float32, copy=False)
    if maps.size and not np.isfinite(maps).all():
        raise UserError(f"{path}: {name} holds NaN or infinite values; make it anew")
    if maps.size and (maps.min() < 0 or maps.max() > MOST):
        raise UserError(
            f"{path}: {name} lies in [{maps.min():g}, {maps.max():g}], expected [0, 1]; cut negatives and divide each class by "
            "its maximum"
        )
    return maps


def _read(path: Path, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a file holds by name; of an .npz only `keys`, if any are given."""
    try:
        if path.suffix == ".npz":
            with np.load(only_file(path), allow_pickle=False) as file:
                return {key: file[key] for key in file.files if not keys or key in keys}
        content = _read_npy(path)
    except _Forbidden as error:
        raise UserError(
            f"{path} would run {error} when it is read, so it is not read; get CAMs from someone you trust, or save them as npz"
        ) from error
    except Exception as error:  # zlib's, zipfile's, and whatever a damaged pickle leads to: it can only build arrays
        raise UserError(f"{path} cannot be read ({damage(error)}); make it anew with cam.overwrite=true") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} holds no dictionary of names; expected keys, cam and high_res, as IRNet writes them")
    return content


def _read_npy(path: Path) -> Any:
    """Return what an .npy file holds: an array, or the one object in an array of objects."""
    with only_file(path).open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(file)
        if dtype.hasobject:
            content = _ArraysOnly(file).load()
            return content.item() if isinstance(content, np.ndarray) and content.size == 1 else content
    return np.load(path, allow_pickle=False)


class _Forbidden(Exception):
    """A name that the unpickler does not know: what it would call."""


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of numbers, texts, containers, NumPy arrays and torch tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call; everything else is refused."""
        known = {
            "ndarray": np.ndarray,
            "dtype": np.dtype,
            "_reconstruct": np.empty(0).__reduce__()[0],
            "scalar": np.float32(0).__reduce__()[0],
        }
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # how old pickles store bytes
            return _latin_bytes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            import torch

            return torch._utils._rebuild_tensor_v2
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        raise _Forbidden(f"{module}.{name}")


def _latin_bytes(text: str, _: str = "latin1") -> bytes:
    return codecs.encode(text, "latin1")


def _load_storage(content: bytes) -> Any:
    """Return a tensor's numbers; torch's own function of that name would unpickle anything."""
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

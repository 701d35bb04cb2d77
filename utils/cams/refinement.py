"""What improves the CAMs of an image before they become labels: a walk along its boundaries, then refiners of probabilities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.cams.dictionaries import CELL
from utils.cams.store import read_scores, read_small
from utils.data.folder import first_names
from utils.errors import UserError
from utils.files import atomic_path
from utils.runtime.provenance import read_source

Floats = NDArray[np.float32]


class ImageRefiner(Protocol):
    """A refiner of `models.refiners`, seen from here."""

    def refine(self, scores: Floats, image: NDArray[np.uint8]) -> Floats: ...

    def settings(self) -> dict[str, Any]: ...


class CamRefiner(Protocol):
    """A refiner of CAMs of `models.refiners`, seen from here."""

    @property
    def boundary_dir(self) -> str: ...

    def refine_cams(self, cams: Floats, boundary: Floats, size: tuple[int, int]) -> Floats: ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Refinement:
    """Refiners in the order they run; either may be missing. Worker processes get it as it is.

    Attributes:
        cams: of CAMs, with boundaries from files.
        scores: of probabilities of background and classes.
        names: of all of them.
    """

    cams: CamRefiner | None = None
    scores: ImageRefiner | None = None
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.cams is not None or self.scores is not None

    def read(
        self, cam_dir: Path, image_id: str, classes: Sequence[int], size: tuple[int, int]
    ) -> tuple[list[Floats], Floats | None]:
        """Return an image's maps (H, W) in [0, 1], walked where that is asked for, and its background mask where there is one.

        Args:
            cam_dir, image_id, classes, size: as of `utils.cams.store.read_scores`.

        Raises:
            UserError: naming a file that is missing, damaged or of another size.
        """
        if self.cams is None:
            return read_scores(cam_dir, image_id, classes, size)
        if not classes:
            return [], None
        cams = read_small(cam_dir, image_id, classes, size)
        boundary = read_boundary(Path(self.cams.boundary_dir), image_id, size)["boundary"]
        return list(self.cams.refine_cams(cams, boundary, size[::-1])), None

    def check(self, ids: Iterable[str]) -> None:
        """Check that what the refiners need of these images is there; see `check_boundaries`."""
        if self.cams is not None:
            check_boundaries(Path(self.cams.boundary_dir), ids)

    def source(self) -> dict[str, Any]:
        """Return what refined CAMs follow from besides the CAMs."""
        made = {} if self.cams is None else {"boundaries": read_source(Path(self.cams.boundary_dir))}
        return {"refiner": {"names": list(self.names), **self.settings()}, **made}

    def settings(self) -> dict[str, Any]:
        """Return what a score file should state."""
        scores = self.scores.settings() if self.scores else {}
        return scores if self.cams is None else {self.names[0]: self.cams.settings(), **scores}


def check_boundaries(folder: Path, ids: Iterable[str]) -> None:
    """Check that the boundaries of all images are there. Raises UserError naming the first missing ones."""
    paths = [boundary_path(folder, image_id) for image_id in ids]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} boundary files are missing in {folder}: {first_names(missing)}; run "
            "scripts.make_boundaries on a boundaries.image_list that covers data.eval_list, or set random_walk.boundary_dir"
        )


def boundary_path(folder: Path, image_id: str) -> Path:
    """Return `<folder>/<id>.npz`."""
    return folder / f"{image_id}.npz"


def write_boundary(path: Path, boundary: Floats, displacement: Floats | None) -> None:
    """Write `boundary` (h, w) in [0, 1] and, if there is one, `displacement` (2, h, w), cells; whole or not at all."""
    fields = {} if displacement is None else {"displacement": displacement}
    with atomic_path(path, sync=False) as temporary:
        np.savez(temporary, allow_pickle=False, boundary=boundary, **fields)


def read_boundary(folder: Path, image_id: str, size: tuple[int, int]) -> dict[str, Floats]:
    """Return `boundary` and, if there, `displacement` of an image of `size` (W, H). Raises UserError for a damaged file."""
    path = boundary_path(folder, image_id)
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except Exception as error:  # zip, its checksums, NumPy: each has errors of its own
        raise UserError(
            f"boundaries {path} cannot be read ({error}); delete the file and run scripts.make_boundaries"
        ) from error
    if wrong := [name for name, field in stored.items() if field.dtype.kind != "f"]:
        raise UserError(f"{path}: {wrong[0]} is of {stored[wrong[0]].dtype}, expected floating-point numbers; make it anew")
    found = {name: field.astype(np.float32, copy=False) for name, field in stored.items()}
    expected = tuple(-(-side // CELL) for side in size[::-1])
    if "boundary" not in found or any(field.shape[-2:] != expected for field in found.values()):
        shapes = ", ".join(f"{name} {field.shape}" for name, field in found.items())
        raise UserError(
            f"{path} holds {shapes or 'nothing'}, expected boundary {expected} for {size[::-1]} pixels (height, width)"
        )
    if not all(np.isfinite(field).all() for field in found.values()):
        raise UserError(f"{path} holds NaN or infinite values; run scripts.make_boundaries with other weights")
    if found["boundary"].min() >= 1:
        raise UserError(f"{path} says that there is a boundary everywhere; has the network been trained? Look at its losses")
    return found

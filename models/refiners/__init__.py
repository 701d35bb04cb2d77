"""Refiners: class probabilities and a picture in, better class probabilities out. A new one is one file and one line here.

Where: `pseudo.refine` (scores before they become labels), `scripts.refine_cams` (whole folders of CAMs), `refine` of the
segmentation stage (`python -m deeplab crf`). A refiner of CAMs (`CamRefiner`) comes before all others, and not in the last.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

# Name -> class, imported when it is asked for: no refiner needs what another one is built with.
REFINERS = {
    "dense_crf": "models.refiners.dense_crf:DenseCrf",
    "pamr": "models.refiners.pamr:PamrRefiner",
    "random_walk": "models.refiners.random_walk:RandomWalk",
}
NONE = ("", "none", None)
# Mean of the published segmentation networks' input, R, G, B in grey levels.
PUBLISHED_MEAN = (122.675, 116.669, 104.008)

Floats = NDArray[np.float32]


class Refiner(Protocol):
    """The face of a refiner; it travels between processes, so it can be pickled.

    Class attributes:
        section: YAML section its settings are read from.
        Settings: dataclass of that section.
    """

    section: ClassVar[str]
    Settings: ClassVar[type]

    @classmethod
    def from_settings(cls, settings: Any, *, mean: Sequence[float], device: str | None) -> "Refiner":
        """Build it.

        Args:
            settings: the section.
            mean: of the network's input, R, G, B in grey levels, for refiners that repeat what a network saw.
            device: where it works; None: where the scores are.

        Raises:
            ValueError: for a value out of range, or a library that is not installed.
        """
        ...

    def refine(self, scores: Floats, image: NDArray[np.uint8]) -> Floats:
        """Return refined probabilities.

        Args:
            scores: (K, H, W) float32 in [0, 1], summing to 1 over K: background and the classes in question.
            image: (H, W, 3) uint8 RGB of the same size.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Return what a score file should state of it."""
        ...


class CamRefiner(Protocol):
    """A refiner of CAMs, before there is a background score; with its boundaries from files, which the programs read.

    Class attributes and `from_settings`: as of `Refiner`.
    """

    boundary_dir: str
    section: ClassVar[str]
    Settings: ClassVar[type]

    @classmethod
    def from_settings(cls, settings: Any, *, mean: Sequence[float], device: str | None) -> "CamRefiner": ...

    def refine_cams(self, cams: Floats, boundary: Floats, size: tuple[int, int]) -> Floats:
        """Return better CAMs (K, H, W) in [0, 1].

        Args:
            cams: (K, h, w) float32 in [0, 1], one value for 4 x 4 pixels.
            boundary: (h, w) float32, probability that a cell lies on the boundary of an object.
            size: (H, W) of the picture.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Return what a score file should state of it."""
        ...


@dataclass(frozen=True)
class Chain:
    """Several refiners, one after the other; what they return is scaled to sum to 1 again in between."""

    names: tuple[str, ...]
    refiners: tuple[Refiner, ...]

    def refine(self, scores: Floats, image: NDArray[np.uint8]) -> Floats:
        """Return refined probabilities, see `Refiner.refine`."""
        for number, refiner in enumerate(self.refiners):
            if number:
                scores = scores / np.maximum(scores.sum(axis=0), np.finfo(np.float32).tiny)
            scores = refiner.refine(scores, image)
        return scores

    def settings(self) -> dict[str, Any]:
        """Return the settings of each, by name."""
        return {name: refiner.settings() for name, refiner in zip(self.names, self.refiners, strict=True)}


def find_refiner(name: str) -> type[Any]:
    """Return the class of a refiner. Raises ValueError for a name that is not in the table."""
    if name not in REFINERS:
        raise ValueError(f"there is no refiner '{name}', expected one or more of {', '.join(REFINERS)}, or none")
    module, _, kind = REFINERS[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), kind)
    return found


def refiner_names(names: Any) -> tuple[str, ...]:
    """Return the names a setting holds: one name, a list of them, or none of them."""
    listed = names if isinstance(names, (list, tuple)) else [names]
    return tuple(str(name) for name in listed if name not in NONE)


def build_refiner(
    names: Any, cfg: Any, *, mean: Sequence[float] = PUBLISHED_MEAN, device: str | None = None
) -> Refiner | Chain | None:
    """Return the refiners of a setting, None for none.

    Args:
        names: see `refiner_names`; several run in the order named.
        cfg: configuration with their sections.
        mean, device: see `Refiner.from_settings`.

    Raises:
        ValueError: for an unknown name, and their own.
    """
    chosen = refiner_names(names)
    if of_cams(chosen):
        raise ValueError(
            f"{', '.join(chosen)}: random_walk refines CAMs, which have no background score yet; name it first, once, and in "
            "pseudo.refine or refine.by only"
        )
    kinds = [find_refiner(name) for name in chosen]
    built = [kind.from_settings(getattr(cfg, kind.section), mean=mean, device=device) for kind in kinds]
    return None if not built else built[0] if len(built) == 1 else Chain(chosen, tuple(built))


def build_cam_refiner(names: Any, cfg: Any, *, device: str | None = None) -> tuple[CamRefiner | None, tuple[str, ...]]:
    """Return the refiner of CAMs that a setting begins with, None where it does not, and the other names.

    Raises:
        ValueError: for an unknown name, and its own.
    """
    first, *others = refiner_names(names) or ("none",)
    if first in NONE or not of_cams([first]):
        return None, refiner_names(names)
    kind = find_refiner(first)
    return kind.from_settings(getattr(cfg, kind.section), mean=PUBLISHED_MEAN, device=device), tuple(others)


def of_cams(names: Sequence[str]) -> bool:
    """Return whether one of the named refiners refines CAMs, not probabilities."""
    return any(hasattr(find_refiner(name), "refine_cams") for name in names)


def refiner_sections(names: Sequence[Any]) -> dict[str, type]:
    """Return YAML section -> settings of the refiners that settings name; unknown ones are told later, by `build_refiner`."""
    flat = [one for entry in names for one in refiner_names(entry)]
    kinds = [find_refiner(name) for name in flat if name in REFINERS]
    return {kind.section: kind.Settings for kind in kinds}

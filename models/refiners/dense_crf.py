"""The fully connected (dense) CRF behind one interface: `dense_crf` for one image, `dense_crf_batch` for several.

Kraehenbuehl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011. Two backends
give the same labels: `pydensecrf`, the established library (CPU), and `torch`, our own (CPU and CUDA, no compiler).
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.crf_schema import CrfConfig
from models.refiners import PUBLISHED_MEAN, mean_field
from models.refiners.mean_field import (
    LOWEST_PROBABILITY,
    Array,
    CrfParameters,
    Picture,
    check_arrays,
    classes_above,
    published_image,
)


def is_importable() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("pydensecrf") is not None


def refine_by_library(probabilities: NDArray[np.float32], image: NDArray[np.uint8], p: CrfParameters) -> NDArray[np.float32]:
    """Return refined probabilities (C, H, W) float32 by the library's defaults (diagonal kernels, symmetric normalisation,
    Potts compatibility), as published; one thread.

    Args:
        probabilities: (C, H, W) float32 in [0, 1].
        image: (H, W, 3) uint8.
        p: constants.
    """
    import pydensecrf.densecrf as library  # only where it is chosen: it is optional

    classes, height, width = probabilities.shape
    crf: Any = library.DenseCRF2D(width, height, classes)
    energy = -np.log(np.clip(probabilities, LOWEST_PROBABILITY, 1.0), dtype=np.float32)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1)))
    crf.addPairwiseGaussian(sxy=p.pos_xy_std, compat=p.pos_w)
    picture = np.ascontiguousarray(image)
    crf.addPairwiseBilateral(sxy=p.bi_xy_std, srgb=p.bi_rgb_std, rgbim=picture, compat=p.bi_w)
    return np.asarray(crf.inference(p.iterations), np.float32).reshape(classes, height, width)


__all__ = ["BACKENDS", "DenseCrf", "dense_crf", "dense_crf_batch", "published_image", "resolve_backend"]

BACKENDS = ("auto", "pydensecrf", "torch")

Device = torch.device | str | None


def dense_crf(probabilities: Array, image: Picture, **how: Any) -> Array:
    """Refine class probabilities so that neighbouring pixels of like colour agree.

    Mean-field inference with Potts compatibility and two kernels with symmetric normalisation, filtered on the permutohedral
    lattice (Adams, Baek & Davis, Eurographics 2010).

    Args:
        probabilities: (C, H, W) float32 in [0, 1], e.g. a soft-max; the unary energy is -ln(max(p, 1e-5)).
        image: (H, W, 3) uint8 RGB of the same size.
        how: what `dense_crf_batch` takes by name.

    Returns:
        (C, H, W) float32, summing to 1 over classes; an array for an array, a tensor on the same device for a tensor.

    Raises:
        ValueError: for wrong shapes or types, or values that are no probabilities.
        ValueError: for a constant out of range, an unknown backend, or one that is not installed.
    """
    return dense_crf_batch([probabilities], [image], **how)[0]


def dense_crf_batch(
    probabilities: Sequence[Array],
    images: Sequence[Picture],
    *,
    backend: str = "auto",
    drop_below: float = 0.0,
    device: Device = None,
    **constants: Any,
) -> list[Array]:
    """Refine several images, which may differ in size and number of classes; what is returned and raised as in `dense_crf`.

    On CUDA the torch backend works on all of them at once; on a CPU it takes them one by one, which is faster there.

    Args:
        probabilities: of each image.
        images: as many.
        backend: "pydensecrf", "torch", or "auto" (see `resolve_backend`).
        drop_below: classes whose probability nowhere exceeds this are left out and come back as 0; 0 keeps all (exact).
        device: where the torch backend works; None is the device of `probabilities`, the CPU for an array.
        constants: of the model, see `CrfParameters`.
    """
    parameters = CrfParameters(**constants)
    if len(probabilities) != len(images):
        raise ValueError(f"{len(probabilities)} probabilities but {len(images)} images")
    for one, image in zip(probabilities, images, strict=True):
        check_arrays(one, image)
    if not probabilities:
        return []
    place = _device(device, probabilities[0])
    use_library = resolve_backend(backend, place) == "pydensecrf"
    tensors = [_tensor(one).to("cpu" if use_library else place) for one in probabilities]
    pictures = [_tensor(image) for image in images]
    kept = [classes_above(one, drop_below) for one in tensors]
    some = [one if len(use) == one.shape[0] else one[use] for one, use in zip(tensors, kept, strict=True)]
    if use_library:
        refined = [_by_library(one, picture, parameters) for one, picture in zip(some, pictures, strict=True)]
    else:
        refined = mean_field.refine(some, [picture.to(place) for picture in pictures], parameters)
    return [_restored(*parts) for parts in zip(probabilities, refined, kept, strict=True)]


def resolve_backend(name: str, device: Device = None) -> str:
    """Return "pydensecrf" or "torch". "auto" is torch on a GPU, else pydensecrf where it is installed, else torch.

    Raises:
        ValueError: for another name, or pydensecrf where it is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"the CRF's backend is '{name}', expected one of {', '.join(BACKENDS)}")
    if name == "auto":
        on_gpu = device is not None and torch.device(device).type != "cpu"
        return "pydensecrf" if not on_gpu and is_importable() else "torch"
    if name == "pydensecrf" and not is_importable():
        raise ValueError(
            "the CRF's backend pydensecrf is not installed; install the package pydensecrf2 (needs a C++ compiler) "
            "or take backend torch, which gives the same labels"
        )
    return name


@dataclass(frozen=True)
class DenseCrf:
    """The CRF as a refiner (see `models.refiners`), with a form for batches on a GPU.

    Attributes:
        parameters: constants of the model.
        backend: "pydensecrf" or "torch".
        image: "true", or "published" for the mean-subtracted picture wrapped to 8 bits.
        mean: R, G, B in grey levels, for "published".
        drop_below, device: as in `dense_crf`.
    """

    parameters: CrfParameters
    backend: str
    image: str
    mean: tuple[float, float, float]
    drop_below: float
    device: str | None

    section: ClassVar[str] = "crf"
    Settings: ClassVar[type] = CrfConfig

    @classmethod
    def from_settings(cls, settings: CrfConfig, *, mean: Sequence[float] = PUBLISHED_MEAN, device: Device = None) -> "DenseCrf":
        """Return the CRF section `crf` describes; `mean` is for `crf.image: published`. Raises ValueError for bad values."""
        if not 0 <= settings.drop_below < 1:
            raise ValueError(f"crf.drop_below is {settings.drop_below}, expected in [0, 1)")
        if settings.image not in ("true", "published"):
            raise ValueError(f"crf.image is '{settings.image}', expected true or published")
        red, green, blue = mean
        s = settings
        return cls(
            CrfParameters(s.iter_max, s.pos_w, s.pos_xy_std, s.bi_w, s.bi_xy_std, s.bi_rgb_std),
            resolve_backend(s.backend, device), s.image, (red, green, blue), s.drop_below,
            None if device is None else str(device),
        )  # fmt: skip

    def refine(self, scores: Array, image: NDArray[np.uint8]) -> Array:
        """Return refined probabilities (C, H, W) float32; `image` (H, W, 3) uint8 RGB. Errors as in `dense_crf`."""
        return self.batch([scores], [image])[0]

    def batch(self, probabilities: Sequence[Array], images: Sequence[NDArray[np.uint8]]) -> list[Array]:
        """Refine several images at once."""
        pictures = [published_image(i, self.mean) if self.image == "published" else i for i in images]
        return dense_crf_batch(
            probabilities, pictures,
            backend=self.backend, drop_below=self.drop_below, device=self.device, **vars(self.parameters),
        )  # fmt: skip

    def settings(self) -> dict[str, float | str]:
        """Return what a score file should state: backend, picture, and the constants by their names in section `crf`."""
        p = self.parameters
        return {
            "backend": self.backend, "image": self.image, "drop_below": self.drop_below, "iter_max": p.iterations,
            "pos_w": p.pos_w, "pos_xy_std": p.pos_xy_std, "bi_w": p.bi_w, "bi_xy_std": p.bi_xy_std, "bi_rgb_std": p.bi_rgb_std,
        }  # fmt: skip


def _device(device: Device, probabilities: NDArray[np.float32] | Tensor) -> torch.device:
    if device is not None:
        return torch.device(device)
    return probabilities.device if isinstance(probabilities, Tensor) else torch.device("cpu")


def _tensor(given: NDArray[Any] | Tensor) -> Tensor:
    # Torch takes no arrays that run backwards, and warns of those that may not be written to (pictures PIL has read).
    return given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.require(given, requirements=["C", "W"]))


def _by_library(probabilities: Tensor, image: Tensor, parameters: CrfParameters) -> Tensor:
    return torch.from_numpy(refine_by_library(probabilities.numpy(), image.cpu().numpy(), parameters))


def _restored(given: Array, refined: Tensor, kept: list[int]) -> Array:
    """Put the classes left out back as 0, and return the kind of array that was given."""
    whole = refined
    if len(kept) != given.shape[0]:
        whole = refined.new_zeros((given.shape[0], *refined.shape[1:]))
        whole[kept] = refined
    return whole.to(given.device) if isinstance(given, Tensor) else whole.cpu().numpy()

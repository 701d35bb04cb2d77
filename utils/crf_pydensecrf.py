"""The dense CRF by the established library (package pydensecrf2, a wrapper of Kraehenbuehl's C++ code)."""

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.crf_inputs import LOWEST_PROBABILITY, CrfParameters


def is_importable() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("pydensecrf") is not None


def refine(probabilities: NDArray[np.float32], image: NDArray[np.uint8], p: CrfParameters) -> NDArray[np.float32]:
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

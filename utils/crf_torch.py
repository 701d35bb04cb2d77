"""The dense CRF in PyTorch alone (CPU and CUDA)."""

from collections.abc import Sequence

from torch import Tensor

from utils.crf_inputs import CrfParameters


def refine(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    """Return refined probabilities (C, H, W) float32 of each image."""
    raise NotImplementedError

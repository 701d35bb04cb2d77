"""The dense CRF in PyTorch alone (CPU and CUDA): mean-field inference of Kraehenbuehl & Koltun (2011).

Rows are pixels of one or several images, in the order of `utils.crf_kernels`; columns are classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from utils.crf_inputs import LOWEST_PROBABILITY, CrfParameters
from utils.crf_kernels import Sizes, padded, pixel_order, pixel_places, prepare_kernels
from utils.permutohedral import Lattice

# On a CPU, classes are taken in portions whose results stay below this: beyond 32 MiB, the C library gives memory back to the
# system at once, and every result has to fault its pages in anew, which takes longer than the sums.
_PORTION_BYTES = 2**25


def refine(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    """Return refined probabilities (C, H, W) float32 of each image.

    Args:
        probabilities: (C, H, W) float32 in [0, 1] each; sizes and C may differ. All on one device.
        images: (H, W, 3) uint8 each.
        p: constants.
    """
    # On a CPU, several images at once only spill the caches.
    at_once = len(images) if probabilities[0].is_cuda else 1
    portions = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    return [q for portion in portions for q in _refine_together(probabilities[portion], images[portion], p)]


@torch.no_grad()
def _refine_together(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    sizes: Sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    kernels = prepare_kernels(images, sizes, p)
    priors = _portions(_to_rows(probabilities, sizes), kernels)
    q = _mean_field(priors, kernels, p.iterations)
    if not all(bool(part.sum().isfinite()) for part in q):
        q = _mean_field(priors, kernels, p.iterations, overflows=True)
    return _to_images(torch.cat(q, 1) if len(q) > 1 else q[0], [one.shape[0] for one in probabilities], sizes)


def _mean_field(priors: list[Tensor], kernels: list[Lattice], iterations: int, overflows: bool = False) -> list[Tensor]:
    """Iterate q = prior * exp(sum of the kernels' messages), normalised over classes.

    Args:
        priors: (P, c) unnormalised probabilities, portions of the classes; a class that is not there is 0.
        kernels: their weights are folded in.
        iterations: >= 1.
        overflows: messages are too large for exp; slower.
    """
    q = _normalise([prior.clone() for prior in priors])
    for _ in range(iterations):
        # Potts: a class gains by what its neighbours have of it.
        messages = [_message(kernels, part) for part in q]
        if overflows:
            top = torch.stack([message.amax(1) for message in messages]).amax(0)
            messages = [message.sub_(top[:, None]) for message in messages]
        q = _normalise([message.exp_().mul_(prior) for message, prior in zip(messages, priors, strict=True)])
    return q


def _message(kernels: list[Lattice], q: Tensor) -> Tensor:
    if not kernels:
        return torch.zeros_like(q)
    message = kernels[0].filter(q)
    for kernel in kernels[1:]:
        message += kernel.filter(q)
    return message


def _normalise(parts: list[Tensor]) -> list[Tensor]:
    """Divide all parts, in place, by the sum over all their columns."""
    # A product with ones: faster than summing short rows.
    total = sum(part @ part.new_ones(part.shape[1], 1) for part in parts)
    return [part.div_(total) for part in parts]


def _portions(rows: Tensor, kernels: list[Lattice]) -> list[Tensor]:
    if rows.is_cuda:
        return [rows]
    widest = max([rows.shape[0], *(kernel.vertices for kernel in kernels)])
    columns = max(1, _PORTION_BYTES // (widest * rows.element_size()) - 1)
    count = -(-rows.shape[1] // columns)
    return [part.contiguous() for part in rows.tensor_split(count, dim=1)]


def _to_rows(probabilities: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """Return (P, C), C the largest number of classes: those an image lacks are 0, so that nothing flows through them."""
    classes = max(one.shape[0] for one in probabilities)
    blocks = []
    for one, size in zip(probabilities, sizes, strict=True):
        flat = one.flatten(1).clamp(LOWEST_PROBABILITY, 1.0).t().contiguous()
        flat = flat.index_select(0, pixel_order(size, one.device))
        # Rows of padding hold anything that can be divided; they are splatted nowhere and cut off again.
        flat = pad(flat, (0, 0, 0, padded(len(flat)) - len(flat)), value=1.0)
        blocks.append(pad(flat, (0, classes - flat.shape[1])))
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _to_images(rows: Tensor, classes: Sequence[int], sizes: Sizes) -> list[Tensor]:
    blocks = rows.split([padded(height * width) for height, width in sizes])
    return [
        block.index_select(0, pixel_places(size, rows.device))[:, :count].t().reshape(count, *size).contiguous()
        for block, count, size in zip(blocks, classes, sizes, strict=True)
    ]

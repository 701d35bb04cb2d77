"""PAMR, pixel-adaptive mask refinement: each pixel takes the mean of its neighbours' scores, those of like colour count most.

Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020. It learns nothing. Inside a network it
makes the pseudo labels that the network learns from; as a refiner it improves the scores of any method (`pseudo.refine=pamr`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, interpolate

from configs.fields import Checked, key
from models.refiners.mean_field import check_arrays

# Neighbours at distance 1, row by row; the published order.
RING = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
# Colour differences are divided by this share of the standard deviation around a pixel, which may be 0.
SHARPNESS, TINY = 0.1, 1e-8
MAX_GREY = 255
# Pixels worked on at a time: what they need stays in the cache of a CPU core; on a GPU about 100 MB.
_CPU_BLOCK, _GPU_BLOCK = 2**13, 2**17

Block = tuple[slice, Tensor]


@dataclass
class PamrConfig(Checked):
    """Section `pamr`: pixel-adaptive mask refinement (Araslanov & Roth 2020). Defaults are the published ones for VOC."""

    dilations: list[int] = key([1, 2, 4, 8, 12, 24], "distances of the eight neighbours taken at each, pixels; >= 1")
    iterations: int = key(10, "times each pixel takes its neighbours' mean; >= 1 (published: 10 for VOC, 5 for COCO)")

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the ranges."""
        return [
            (
                len(self.dilations) > 0 and min(self.dilations) >= 1,
                f"{name}dilations is {list(self.dilations)}, expected one distance or several, each at least 1 pixel",
            ),
            (self.iterations >= 1, f"{name}iterations is {self.iterations}, expected at least 1"),
        ]


class PAMR(nn.Module):
    """The refinement of a batch; `PamrRefiner` is the form for one picture.

    Args:
        config: its dilations may exceed the pictures: what lies outside repeats their edge.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(self, config: PamrConfig) -> None:
        super().__init__()
        for holds, message in config.rules("pamr."):
            if not holds:
                raise ValueError(message)
        self.dilations, self.iterations = tuple(config.dilations), config.iterations
        # The published program computes with these constants and has them in its snapshots; here they only let those load.
        one_hot = torch.eye(9).view(9, 1, 3, 3)
        around = torch.cat([one_hot[:4], one_hot[5:]])
        for name, kernel in (("aff_x", one_hot[4:5] - around), ("aff_m", around), ("aff_std", one_hot)):
            self.add_module(name, nn.Module())
            self.get_submodule(name).register_buffer("kernel", kernel)

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return refined masks (B, D, H, W) on the grid of the images, in the type of the masks; no gradient passes.

        The mean of a pixel's 8 * len(dilations) neighbours, without the pixel itself, replaces its score, `iterations` times.
        A picture is never copied once a neighbour: extra memory is 4 bytes a pixel and neighbour, and 8 a pixel and class.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], not normalised.
            masks: (B, D, h, w) scores of D classes; resized to (H, W) first where they differ (bilinear, corners aligned). To
                refine on the masks' own grid, as WS-FCN does, resize the images to it.

        Raises:
            ValueError: for tensors of other shapes.
        """
        if images.dim() != 4 or masks.dim() != 4 or len(images) != len(masks):
            shapes = f"images {tuple(images.shape)} and masks {tuple(masks.shape)}"
            raise ValueError(f"{shapes} do not fit, expected (B, 3, H, W) and (B, D, h, w)")
        size, scores = images.shape[2:], masks.float()
        if scores.shape[2:] != size:
            scores = interpolate(scores, size, mode="bilinear", align_corners=True)
        weights = self.affinities(images).flatten(0, 2)
        # Pixel by pixel, so that the classes of a neighbour are one row and a new score is a weighted sum of rows.
        old = scores.new_empty(len(weights), masks.shape[1])
        old.view(len(images), *size, -1).copy_(scores.movedim(1, 3))
        new = torch.empty_like(old)
        for _ in range(self.iterations):
            for part, neighbours in self._blocks(images):
                new[part] = embedding_bag(neighbours, old, per_sample_weights=weights[part], mode="sum")
            old, new = new, old
        return old.view(len(images), *size, -1).movedim(3, 1).to(masks.dtype).contiguous()

    @torch.no_grad()
    def affinities(self, images: Tensor) -> Tensor:
        """Return the weights (B, H, W, N) float32 of each pixel's N neighbours, summing to 1: dilation by dilation, row by row.

        They are the soft-max over the neighbours of -|x - x_n| / (1e-8 + 0.1 s), averaged over colour channels; s is the
        (unbiased) standard deviation of a channel over the neighbours and, once a dilation, the pixel itself.

        Args:
            images: (B, C, H, W), any scale.
        """
        batch, channels, height, width = images.shape
        samples = 9 * len(self.dilations)
        planes = images.float().transpose(0, 1).flatten(1)
        weights = planes.new_empty(planes.shape[1], 8 * len(self.dilations))
        for part, neighbours in self._blocks(images):
            distance = torch.zeros_like(weights[part])
            for plane in planes:
                # Differences to the pixel itself give the deviation in one pass, without cancellation.
                difference = plane.index_select(0, neighbours.flatten()).view(neighbours.shape).sub_(plane[part, None])
                total = difference.sum(dim=1, keepdim=True)
                squares = difference.square().sum(dim=1, keepdim=True)
                deviation = squares.sub_(total.square_().div_(samples)).clamp_(min=0).div_(samples - 1).sqrt_()
                distance.add_(difference.abs_().div_(deviation.mul_(SHARPNESS).add_(TINY)))
            weights[part] = distance.div_(-channels).softmax(dim=1)
        return weights.view(batch, height, width, -1)

    def _blocks(self, images: Tensor) -> Iterator[Block]:
        """Yield whole rows of pixels, counted through the batch, and the numbers (n, N) int32 of their neighbours."""
        batch, _, height, width = images.shape
        listed = torch.tensor([(y * d, x * d) for d in self.dilations for y, x in RING])
        steps = listed.to(images.device, non_blocking=True)  # `device=` would wait for the work queued there
        y = (torch.arange(height, device=images.device)[:, None] + steps[:, 0]).clamp_(0, height - 1)
        x = (torch.arange(width, device=images.device)[:, None] + steps[:, 1]).clamp_(0, width - 1).int()
        first = torch.arange(batch, device=images.device)[:, None, None] * height
        starts = ((first + y) * width).flatten(0, 1).int()
        count = max(1, (_CPU_BLOCK if images.device.type == "cpu" else _GPU_BLOCK) // width)
        for row in range(0, batch * height, count):
            neighbours = (starts[row : row + count, None] + x).flatten(0, 1)
            yield slice(row * width, row * width + len(neighbours)), neighbours


@dataclass(frozen=True)
class PamrRefiner:
    """PAMR as a refiner (see `models.refiners`); it holds no tensors, so it travels between processes.

    Attributes:
        config: as for `PAMR`.
        device: where it works; None: the CPU.
    """

    config: PamrConfig
    device: str | None

    section: ClassVar[str] = "pamr"
    Settings: ClassVar[type] = PamrConfig

    @classmethod
    def from_settings(cls, settings: PamrConfig, *, mean: Sequence[float], device: str | None) -> "PamrRefiner":
        """Return what section `pamr` describes, whatever the mean. Raises ValueError for a value out of range."""
        PAMR(settings)
        return cls(settings, device)

    def refine(self, scores: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return refined probabilities (K, H, W) float32 of `scores` (K, H, W), `image` (H, W, 3) uint8 RGB of the same size.

        Raises:
            ValueError: for wrong shapes or types.
        """
        check_arrays(scores, image)
        # Torch takes no arrays that run backwards, and warns of those that may not be written to (pictures PIL has read).
        picture, masks = (torch.from_numpy(np.require(one, requirements=["C", "W"])).to(self.device) for one in (image, scores))
        refined: Tensor = PAMR(self.config)(picture.permute(2, 0, 1)[None] / MAX_GREY, masks[None])
        return refined[0].cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Return what a score file should state of it."""
        return {"dilations": list(self.config.dilations), "iterations": self.config.iterations}

"""How large the work of one run is."""

from dataclasses import dataclass

import torch

# Winner maps of a VOC batch (3 images x 6 patches, 21 channels) and a COCO batch (12 x 4, 81), 320 px crops.
PUBLISHED_GRIDS = ((18, 21, 40), (48, 81, 40))


@dataclass(frozen=True)
class Size:
    """Sizes of one run.

    Attributes:
        note: what to know when reading the numbers.
        device: cpu or cuda.
        width: channel multiplier of ResNet-38.
        input_size: side of the global view in training, pixels.
        crop_size: side of a local view, pixels.
        batch: images a training step.
        image: (H, W) for CAM inference, pixels.
        files: images the file stages work on.
        file_size: their (W, H), pixels.
        grids: winner maps as (views, channels, cells a side).
        full: published sizes, from which a full run can be projected.
    """

    note: str
    device: str
    width: float
    input_size: int
    crop_size: int
    batch: int
    image: tuple[int, int]
    files: int
    file_size: tuple[int, int]
    grids: tuple[tuple[int, int, int], ...]
    full: bool = False


SIZES = {
    "cpu": Size(
        "networks at width 1/4 on pictures of half the side: a 64th of the work, and refinement keeps its share of it "
        "(trunk ~ width^2 x area, affinity ~ width x area^2); winner maps and files at full size",
        device="cpu", width=0.25, input_size=224, crop_size=160, batch=1, image=(188, 250),
        files=10, file_size=(500, 375), grids=PUBLISHED_GRIDS,
    ),
    "gpu": Size(
        "published sizes",
        device="cuda", width=1.0, input_size=448, crop_size=320, batch=3, image=(375, 500),
        files=40, file_size=(500, 375), grids=PUBLISHED_GRIDS, full=True,
    ),
    "tiny": Size(
        "a check of the program, not a measurement",
        device="cpu", width=0.0625, input_size=48, crop_size=32, batch=1, image=(40, 52),
        files=3, file_size=(64, 48), grids=((4, 21, 6),),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the command line asked for.

    `tf32` False keeps the baseline's convolutions from rounding to TF32. `precision` is that of the project's code (see
    `utils.runtime.device.autocast_for`); the baseline is float32 always. `data` is a VOC folder whose pictures are loaded as
    training samples; empty makes some up.
    """

    size: Size
    device: torch.device
    repeat: int
    tf32: bool = True
    precision: str = "auto"
    data: str = ""

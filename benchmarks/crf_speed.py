"""Measure the dense CRF of the torch backend against pydensecrf and against plain tensor operations: same inputs, same run.

    python -m benchmarks.crf_speed                                          # one CPU thread, 500x375, 21 and 81 classes
    python -m benchmarks.crf_speed --image data/voc12/JPEGImages/2007_000392.jpg
    python -m benchmarks.crf_speed --device cuda --batch 8                  # per image in a batch, against one core
    python -m benchmarks.crf_speed --no-plain                               # without the baseline that takes longest
    python -m benchmarks.crf_speed --size 60x45 --repeat 1                  # seconds; checks the program, measures nothing

Prints a Markdown table of medians (the two versions take turns). Without --image the picture is made of smooth colour fields
with noise; probabilities are the soft-max of coarse random logits around three regions. pydensecrf2 has to be installed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, one_hot

from benchmarks import plain_crf
from benchmarks.measure import Row, asked_device, machine_line, table, time_both
from models.refiners.dense_crf import dense_crf, dense_crf_batch, resolve_backend
from utils.data.images import read_image
from utils.errors import UserError

DROP = 0.05
# Goals on one CPU thread against pydensecrf: by number of classes, with classes dropped; and on a GPU.
GOALS = {21: 1.1, 81: 1.3}
DROP_GOAL, GPU_GOAL = 1.5, 60.0
# Network cells are 8 pixels; regions stand out by so many logits.
CELL, MARGIN, REGIONS = 8, 8.0, 3

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def run(
    classes: list[int],
    size: tuple[int, int],
    *,
    device: torch.device,
    batch: int,
    repeat: int,
    image: Path | None = None,
    with_plain: bool = True,
) -> Iterator[Row]:
    """Yield a row per comparison; `size` is (W, H), `batch` the images a GPU takes at once (1 on a CPU)."""
    picture = _picture(size) if image is None else np.asarray(read_image(image).resize(size))
    for count in classes:
        probabilities = _probabilities(count, size)
        cuda = device.type == "cuda"
        plain = partial(dense_crf, probabilities, picture, backend="pydensecrf")
        yield _row(
            f"pydensecrf, {count} classes", plain, _ours(probabilities, picture, device, batch), (device, batch, repeat),
            goal=GPU_GOAL if cuda else GOALS.get(count, 0),
        )  # fmt: skip
        kept = int((probabilities.max((1, 2)) > DROP).sum())
        yield _row(
            f"pydensecrf, {count} classes of which ours keeps {kept} (drop_below={DROP})",
            plain, _ours(probabilities, picture, device, batch, drop_below=DROP), (device, batch, repeat),
            goal=0 if cuda else DROP_GOAL,
        )  # fmt: skip
        if not with_plain:
            continue
        straight = partial(_straight, probabilities, picture, device)
        ours = _ours(probabilities, picture, device, batch)
        yield _row(f"plain tensor operations, {count} classes", straight, ours, (device, batch, repeat))


def _straight(probabilities: Floats, picture: Pixels, device: torch.device) -> Floats:
    tensors = torch.from_numpy(probabilities).to(device), torch.from_numpy(picture.copy()).to(device)
    return plain_crf.refine(*tensors).cpu().numpy()


def _ours(
    probabilities: Floats, picture: Pixels, device: torch.device, batch: int, drop_below: float = 0.0
) -> Callable[[], list[Floats]]:
    inputs = [probabilities] * batch, [picture] * batch
    return partial(dense_crf_batch, *inputs, backend="torch", device=device, drop_below=drop_below)


def _row(
    what: str,
    plain: Callable[[], Floats],
    ours: Callable[[], list[Floats]],
    how: tuple[torch.device, int, int],
    goal: float = 0.0,
) -> Row:
    device, batch, repeat = how
    first, second = plain(), ours()[0]
    labels = (first.argmax(0) == second.argmax(0)).mean()
    difference = f"{np.abs(first - second).max():.1e}, {labels:.4%} equal labels"
    timing = time_both(plain, ours, repeat=repeat, device=device)
    # The baseline takes one image, ours a batch.
    shared = type(timing)(timing.plain, timing.ours / batch, timing.lowest * batch, timing.highest * batch)
    return Row(f"{what}, per image" if batch > 1 else what, shared, difference, goal=goal)


def _picture(size: tuple[int, int]) -> Pixels:
    """Return (H, W, 3) uint8: coarse colours, smoothly joined, with noise of 4 grey levels as photographs have."""
    width, height = size
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=rng) * 255
    smooth = interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    return (smooth + 4 * torch.randn(smooth.shape, generator=rng)).clamp(0, 255).byte().numpy()


def _probabilities(classes: int, size: tuple[int, int]) -> Floats:
    """Return (C, H, W) float32 as an upsampled soft-max of a segmentation network looks."""
    width, height = size
    rng = torch.Generator().manual_seed(1)
    cells = (-(-height // CELL) + 1, -(-width // CELL) + 1)
    seeds = torch.randn(1, min(REGIONS, classes), 3, 4, generator=rng)
    regions = one_hot(interpolate(seeds, cells, mode="bicubic").argmax(1), classes).permute(0, 3, 1, 2)
    bias = torch.randn(1, classes, 1, 1, generator=rng)
    logits = MARGIN * regions + bias + torch.randn(1, classes, *cells, generator=rng)
    return interpolate(logits, (height, width), mode="bilinear")[0].softmax(0).numpy()


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="21,81", help="comma-separated numbers of classes (default 21,81)")
    parser.add_argument("--size", default="500x375", help="WxH in pixels (default 500x375)")
    parser.add_argument("--image", type=Path, help="picture to use, resized to --size")
    parser.add_argument("--device", default="cpu", help="of the torch versions: cpu, cuda or cuda:<n> (default cpu)")
    parser.add_argument("--batch", type=int, default=1, help="images ours takes at once, >= 1 (default 1)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each version, >= 1 (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the torch versions (default 1)")
    parser.add_argument("--no-plain", action="store_true", help="compare with pydensecrf alone")
    arguments = parser.parse_args(argv)
    if min(arguments.repeat, arguments.threads, arguments.batch) < 1:
        parser.error("--repeat, --threads and --batch must be at least 1")
    device = asked_device(parser, arguments.device)
    try:
        resolve_backend("pydensecrf")
        classes = [int(part) for part in arguments.classes.split(",")]
        width, height = (int(part) for part in arguments.size.split("x"))
    except UserError as error:
        parser.error(str(error))
    except ValueError:
        parser.error("--classes takes numbers like 21,81 and --size two like 500x375")
    torch.set_num_threads(arguments.threads)
    rows = run(
        classes, (width, height), device=device, batch=arguments.batch, repeat=arguments.repeat, image=arguments.image,
        with_plain=not arguments.no_plain,
    )  # fmt: skip
    print(f"{width}x{height}, 10 iterations; {machine_line(device)}")
    print(table(list(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])

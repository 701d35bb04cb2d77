"""Multi-scale CAMs of a batch of equally large images, from any network that maps images to score maps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.cams.merge import (
    SeedMaps,
    add_mirrored,
    average_mirrored,
    cams_to_labels,
    crop_starts,
    merge_scales,
    normalise_cams,
    pad_centred,
    predict_classes,
    seed_maps,
    to_device,
    with_mirrored,
)

# (images (B, 3, H, W), wanted channels or None) -> score map (B, D, h, w), logits (B, C)
ScoreFunction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ImageCams:
    """CAMs of one image, on the device: `cams` (K, H, W) in [0, 1] for its K `classes`, `labels` (H, W) uint8 if asked for.

    `background` (H, W) in [0, 1] where masks are averaged; `refine`: maps for refinement networks, if asked for.
    `scores`: logits (C,) of all classes, the mean over scales and mirror images, where the network computed them all. `small`:
    maps (K, ceil(H / 4), ceil(W / 4)) that were merged at that size (`summed`).
    """

    classes: tuple[int, ...]
    cams: Tensor
    labels: Tensor | None
    background: Tensor | None = None
    refine: SeedMaps | None = None
    scores: Tensor | None = None
    small: Tensor | None = None


@dataclass(frozen=True)
class CamSettings:
    """How maps are made.

    `flip` averages with the mirror image. `score_threshold` predicts classes (probability above it); None takes them from
    the list. `label_threshold` is the background score of label maps; None makes none. `refine` also makes `SeedMaps`.
    `background` is the background channel of the score maps where CAMs are probabilities against it and the image's other
    classes (softmax), or the maps are masks; None cuts negative scores instead (published).

    `masks`: the maps are masks in [0, 1], averaged as they are; label maps then weigh them against the background mask to the
    power of `label_power`, or `label_threshold` where that is 0. `summed`: CAMs are the full-size `SeedMaps`.

    `pad_size`, `crop_size`, `crop_grid`: (rows, columns), see section `cam`; empty: none. `any_view`: predicted classes are
    those of any scale or flip, and there may be none. `top`: also the maps of so many classes of the highest scores. `native`:
    maps stay at the size the first scale has them.
    """

    flip: bool
    score_threshold: float | None
    label_threshold: float | None
    refine: bool = False
    background: int | None = None
    masks: bool = False
    summed: bool = False
    label_power: float = 0.0
    pad_size: tuple[int, ...] = ()
    crop_size: tuple[int, ...] = ()
    crop_grid: tuple[int, ...] = ()
    any_view: bool = False
    top: int = 0
    native: bool = False


def infer_batch(
    network: ScoreFunction,
    scales: Sequence[Tensor],
    size: tuple[int, int],
    classes: Sequence[tuple[int, ...]],
    settings: CamSettings,
    autocast: AbstractContextManager[object],
) -> list[ImageCams]:
    """Compute the CAMs of each image's own classes.

    The network computes only the classes that occur in the batch (all when they are to be predicted), and only each image's own
    are resized to the image: typically 1 to 3 of 20.

    Args:
        network: maps images and wanted channels to score maps and logits.
        scales: the images at each scale, (B, 3, h_s, w_s) normalised, on the device.
        size: (H, W) of the images, pixels.
        classes: each image's classes, 0-based ascending (not looked at when classes are predicted).
        settings: see there.
        autocast: context of the network's forward passes.
    """
    predicting = settings.score_threshold is not None
    own = {k for present in classes for k in present}
    wanted = None if predicting or settings.top else sorted(own if settings.background is None else own | {settings.background})
    channels = None if wanted is None else to_device(torch.tensor(wanted), scales[0].device)
    maps, positive = [], []
    scores: list[Tensor] = []
    with autocast:
        for images in scales:
            score_map, logits = _whole(network, images, channels, settings)
            maps.append(average_mirrored(score_map) if settings.flip else score_map)
            if settings.refine or settings.summed:
                positive.append(add_mirrored(score_map) if settings.flip else score_map.clamp_min(0))
            scores += logits.chunk(2) if settings.flip else [logits]
    every = torch.stack(scores)
    mean = every.mean(dim=0)
    if settings.score_threshold is not None:
        strongest = every.amax(dim=0) if settings.any_view else mean
        classes = predict_classes(strongest, settings.score_threshold, one_at_least=not settings.any_view)
    if settings.top:
        best = mean.topk(min(settings.top, mean.shape[1])).indices.tolist()
        classes = [tuple(sorted({*present, *also})) for present, also in zip(classes, best, strict=True)]
    if settings.native:
        size = (maps[0].shape[2], maps[0].shape[3])
    columns = {k: k for k in range(maps[0].shape[1])} if wanted is None else {k: i for i, k in enumerate(wanted)}
    # Not lists: as an index each of them would wait for the device at every scale.
    chosen = [_index([columns[k] for k in present], mean.device) for present in classes] if positive else []
    refined = [seed_maps([m[i, channels] for m in positive], size) for i, channels in enumerate(chosen)]
    if settings.summed:
        done = [
            replace(_image(present, summed.high, None, settings), small=summed.low)
            for present, summed in zip(classes, refined, strict=True)
        ]
    else:
        done = _finish(maps, size, classes, columns, settings)
    if wanted is None:
        done = [replace(image, scores=row) for image, row in zip(done, mean, strict=True)]
    if not settings.refine:
        return done
    return [replace(image, refine=maps_) for image, maps_ in zip(done, refined, strict=True)]


def _index(places: Sequence[int], device: torch.device) -> Tensor:
    return to_device(torch.tensor(places, dtype=torch.int64), device)


def _whole(network: ScoreFunction, images: Tensor, channels: Tensor | None, settings: CamSettings) -> tuple[Tensor, Tensor]:
    """Return the network's float32 maps and logits of images, twice as many where they are mirrored.

    A padded image's maps come from the whole canvas, or from its crops one by one, and are cut to the image again.
    """
    images = with_mirrored(images) if settings.flip else images
    if not settings.pad_size:
        score_map, logits = network(images, channels)
        return score_map.float(), logits.float()
    canvas, (top, left) = pad_centred(images, settings.pad_size)
    score_map, logits = _crops(network, canvas, channels, settings) if settings.crop_size else network(canvas, channels)
    return score_map[:, :, top : top + images.shape[2], left : left + images.shape[3]].float(), logits.float()


def _crops(network: ScoreFunction, canvas: Tensor, channels: Tensor | None, settings: CamSettings) -> tuple[Tensor, Tensor]:
    """Return the mean of overlapping crops' masks on the canvas, and of logits the highest."""
    (height, width), sides = settings.crop_size, (canvas.shape[2], canvas.shape[3])
    rows, columns = (
        crop_starts(side, crop, count) for side, crop, count in zip(sides, settings.crop_size, settings.crop_grid, strict=True)
    )
    total, found = torch.zeros(()), list[Tensor]()
    seen = torch.zeros(sides, device=canvas.device)
    for y in rows:
        for x in columns:
            maps, logits = network(canvas[:, :, y : y + height, x : x + width], channels)
            if not found:
                total = maps.new_zeros(*maps.shape[:2], *sides, dtype=torch.float32)
            found.append(logits)
            total[:, :, y : y + height, x : x + width] += maps
            seen[y : y + height, x : x + width] += 1
    return total / seen.clamp_min(1), torch.stack(found).amax(dim=0)


def _finish(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    classes: Sequence[tuple[int, ...]],
    columns: dict[int, int],
    settings: CamSettings,
) -> list[ImageCams]:
    """Merge the (image, class) pairs of the whole batch at once and hand them out per image."""
    background = settings.background
    extra = [] if background is None else [background]
    pairs = [(image, columns[k]) for image, present in enumerate(classes) for k in (*present, *extra)]
    rows, channels = to_device(torch.tensor(pairs, dtype=torch.int64).view(-1, 2), maps[0].device).T
    merged = merge_scales([m[rows, channels] for m in maps], size, "bilinear" if settings.masks else "bicubic")
    parts = merged.split([len(present) + len(extra) for present in classes])
    if settings.masks:
        return [_image(present, part[:-1], part[-1], settings) for present, part in zip(classes, parts, strict=True)]
    if background is not None:
        parts = tuple(part.softmax(dim=0)[:-1] for part in parts)
    own = normalise_cams(torch.cat(parts)).split([len(present) for present in classes])
    return [_image(present, part, None, settings) for present, part in zip(classes, own, strict=True)]


def _image(present: tuple[int, ...], cams: Tensor, background: Tensor | None, settings: CamSettings) -> ImageCams:
    labels = None
    if settings.label_threshold is not None:
        against = background**settings.label_power if background is not None and settings.label_power else None
        labels = cams_to_labels(cams, present, settings.label_threshold if against is None else against)
    return ImageCams(present, cams, labels, background)

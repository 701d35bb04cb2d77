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
    merge_scales,
    normalise_cams,
    predict_classes,
    quantise_cams,
    seed_maps,
    to_device,
    with_mirrored,
)

# (images (B, 3, H, W), wanted channels or None) -> score map (B, D, h, w), logits (B, C)
ScoreFunction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ImageCams:
    """CAMs of one image, on the device: `cams` (K, H, W) uint8 for its K `classes`, `labels` (H, W) uint8 if asked for.

    `refine`: maps for refinement networks, if asked for.
    """

    classes: tuple[int, ...]
    cams: Tensor
    labels: Tensor | None
    refine: SeedMaps | None = None


@dataclass(frozen=True)
class CamSettings:
    """How maps are made.

    `flip` averages with the mirror image. `score_threshold` predicts classes (probability above it); None takes them from
    the list. `label_threshold` is the background score of label maps; None makes none. `refine` also makes `SeedMaps`.
    `background` is the background channel of the score maps where CAMs are probabilities against it and the image's other
    classes (softmax); None cuts negative scores instead (published).
    """

    flip: bool
    score_threshold: float | None
    label_threshold: float | None
    refine: bool = False
    background: int | None = None


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
    wanted = None if predicting else sorted(own if settings.background is None else own | {settings.background})
    channels = None if wanted is None else to_device(torch.tensor(wanted), scales[0].device)
    maps, positive, scores = [], [], []
    with autocast:
        for images in scales:
            score_map, logits = network(with_mirrored(images) if settings.flip else images, channels)
            score_map = score_map.float()
            maps.append(average_mirrored(score_map) if settings.flip else score_map)
            if settings.refine:
                positive.append(add_mirrored(score_map) if settings.flip else score_map.clamp_min(0))
            scores.append(torch.stack(logits.float().chunk(2)).mean(dim=0) if settings.flip else logits.float())
    if settings.score_threshold is not None:
        classes = predict_classes(torch.stack(scores).mean(dim=0), settings.score_threshold)
    columns = {k: k for k in range(maps[0].shape[1])} if wanted is None else {k: i for i, k in enumerate(wanted)}
    done = _finish(maps, size, classes, columns, settings)
    if not settings.refine:
        return done
    chosen = [[columns[k] for k in present] for present in classes]
    refined = [seed_maps([m[i, channels] for m in positive], size) for i, channels in enumerate(chosen)]
    return [replace(image, refine=maps_) for image, maps_ in zip(done, refined, strict=True)]


def _finish(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    classes: Sequence[tuple[int, ...]],
    columns: dict[int, int],
    settings: CamSettings,
) -> list[ImageCams]:
    """Merge the (image, class) pairs of the whole batch at once and hand them out per image."""
    label_threshold, background = settings.label_threshold, settings.background
    extra = [] if background is None else [background]
    pairs = [(image, columns[k]) for image, present in enumerate(classes) for k in (*present, *extra)]
    rows, channels = to_device(torch.tensor(pairs), maps[0].device).T
    merged = merge_scales([m[rows, channels] for m in maps], size)
    if background is not None:
        own = [scores.softmax(dim=0)[:-1] for scores in merged.split([len(present) + 1 for present in classes])]
        merged = torch.cat(own)
    cams = normalise_cams(merged)
    levels = quantise_cams(cams)
    counts = [len(present) for present in classes]
    return [
        ImageCams(present, own_levels, None if label_threshold is None else cams_to_labels(own, present, label_threshold))
        for present, own, own_levels in zip(classes, cams.split(counts), levels.split(counts), strict=True)
    ]

"""Pictures of class activation maps: heat over the image with a colour bar, per class and all classes in one."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from utils.cams.sweep import winning_class
from utils.data.classes import label_value
from utils.data.images import MAX_GREY
from utils.drawing.overlays import (
    INK,
    MARGIN,
    PAPER,
    TEXT_HEIGHT,
    Picture,
    cam_overlay,
    heat_map,
    label_colours,
    label_font,
    label_legend,
)

PUBLISHED_COLORMAP = "jet"
_EPSILON = 1e-8
# Pixels of a colour bar; its ticks, as shares of the height from below.
BAR_WIDTH, TICK_LENGTH, LABEL_WIDTH = 12, 3, 24
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
MARK_LENGTH = 3
# All classes in one: brightness of the grey image below, a grey to show it on the bar, and the least share of a class's
# colour where its map is above 0.
GREY_BRIGHTNESS, BAR_GREY, LEAST_SHARE = 0.8, 128, 0.1


def colour_bar(ramps: Sequence[Picture], *, mark: float | None = None) -> Picture:
    """Draw ramps side by side with ticks, as a narrow strip on white paper, as high as the picture it stands beside.

    Args:
        ramps: (height, width, 3) each, 1 above, 0 below (from `heat_ramp`, `class_ramp`); drawn a margin shorter.
        mark: value in [0, 1] to mark, the background threshold.
    """
    height, width = ramps[0].shape[0], sum(ramp.shape[1] for ramp in ramps)
    page = Image.new("RGB", (MARGIN + width + TICK_LENGTH + LABEL_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(page)
    inset = TEXT_HEIGHT // 2
    length = max(1, height - 2 * inset)
    rows = np.linspace(0, height - 1, length).round().astype(int)  # both ends stay what they are
    page.paste(Image.fromarray(np.concatenate(ramps, axis=1)[rows]), (MARGIN, inset))
    right = MARGIN + width
    for value in TICKS if height > len(TICKS) * TEXT_HEIGHT else (TICKS[0], TICKS[-1]):
        y = inset + round((1 - value) * (length - 1))
        draw.line((right, y, right + TICK_LENGTH, y), fill=INK)
        draw.text((right + TICK_LENGTH + 2, y - inset), f"{value:g}", fill=INK, font=label_font())
    if mark is not None:
        y = inset + round((1 - mark) * (length - 1))
        draw.line((MARGIN, y, right - 1, y), fill=PAPER, width=2)
        draw.line((MARGIN - MARK_LENGTH, y, MARGIN - 1, y), fill=INK, width=2)
    return np.array(page)


def heat_ramp(height: int, colormap: str) -> Picture:
    """Return the colours of 1 (above) to 0 (below) of a matplotlib colour map, (height, BAR_WIDTH, 3)."""
    return heat_map(_values(height), colormap=colormap)


def class_ramp(height: int, class_index: int, opacity: float) -> Picture:
    """Return what `combined_overlay` makes of mid grey where the class's map is 1 (above) to 0 (below)."""
    values = np.rint(_values(height) * MAX_GREY).astype(np.uint8)
    grey = np.full((*values.shape, 3), BAR_GREY, np.uint8)
    return combined_overlay(grey, {class_index: values}, opacity=opacity)


def class_picture(
    image: Picture, cam: NDArray[np.uint8], *, colormap: str, opacity: float, outline: float | None = None
) -> Picture:
    """Draw one class's map (h, w) over its image (H, W, 3), a colour bar beside it."""
    overlay = cam_overlay(image, cam, opacity=opacity, colormap=colormap, outline=outline)
    return np.concatenate([overlay, colour_bar([heat_ramp(image.shape[0], colormap)], mark=outline)], axis=1)


def published_picture(cam: NDArray[np.uint8]) -> Picture:
    """Draw a map (H, W) as the published program did: stretched to its own range, jet colours, no image."""
    values = cam.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return heat_map((values - low) / (high - low + _EPSILON), colormap=PUBLISHED_COLORMAP)


def combined_overlay(image: Picture, cams: Mapping[int, NDArray[np.uint8]], *, opacity: float) -> Picture:
    """Colour each pixel of the grey image with the class whose map is highest there, the more the higher it is.

    Args:
        image: (H, W, 3).
        cams: class (0-based) -> (h, w) 8-bit map; none leaves the grey image.
        opacity: share of the class colours at the maximum, in [0, 1].
    """
    height, width = image.shape[:2]
    grey = GREY_BRIGHTNESS * image.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
    if not cams:
        return np.rint(grey).astype(np.uint8)
    winner, value = winning_class([_fit(cam, (width, height)) for cam in cams.values()])
    labels = np.array([label_value(k) for k in cams], np.uint8)[winner]
    strength = value[..., None].astype(np.float32) / MAX_GREY
    share = opacity * np.where(strength > 0, LEAST_SHARE + (1 - LEAST_SHARE) * strength, 0)
    return np.rint(grey * (1 - share) + _bright(label_colours(labels)) * share).astype(np.uint8)


def combined_picture(image: Picture, cams: Mapping[int, NDArray[np.uint8]], names: Sequence[str], *, opacity: float) -> Picture:
    """Draw `combined_overlay` with a ramp for each class beside it and the classes' names below."""
    overlay = combined_overlay(image, cams, opacity=opacity)
    if not cams:
        return overlay
    classes = sorted(cams)
    bar = colour_bar([class_ramp(image.shape[0], k, opacity) for k in classes])
    picture = np.concatenate([overlay, bar], axis=1)
    return np.concatenate([picture, label_legend([label_value(k) for k in classes], names, picture.shape[1])])


def _bright(colours: Picture) -> NDArray[np.float32]:
    """Scale colours to full brightness: half of the palette's are too dark to tell apart over a picture."""
    peak = colours.max(axis=-1, keepdims=True).astype(np.float32)
    return colours * (MAX_GREY / np.maximum(peak, 1))


def _values(height: int) -> NDArray[np.float64]:
    return np.linspace(1, 0, height)[:, None].repeat(BAR_WIDTH, axis=1)


def _fit(cam: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a map to (W, H) where it is not of that size."""
    if cam.shape == (size[1], size[0]):
        return cam
    return np.asarray(cv2.resize(cam, size, interpolation=cv2.INTER_LINEAR), np.uint8)

"""Pictures for people: heat maps over images, label maps with a legend, captioned sheets. All return uint8 RGB arrays."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from utils.data.classes import BACKGROUND, IGNORE, class_index, palette
from utils.data.images import MAX_GREY

if TYPE_CHECKING:
    pass

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

COLORMAP = "turbo"
# A heat map's colours cover at most this much of the image; where the map is 0 the image stays dim but readable.
HEAT_OPACITY = 0.65
DIMMED = 0.55
# What is left of an image below the colours of a label map, in the pictures of 1-Stage and WS-FCN.
IMAGE_SHARE = 0.3
# Pixels, on sheets.
CELL_HEIGHT, TEXT_HEIGHT, MARGIN, SWATCH = 150, 13, 6, 11
TRUE_BOX, FOUND_BOX = (220, 50, 47), (60, 180, 75)
CHECK, CHECK_GREYS = 8, (170, 215)
PAPER, INK, IGNORED = (255, 255, 255), (40, 40, 40), (235, 235, 235)


def heat_map(values: NDArray[Any], *, colormap: str = COLORMAP) -> Picture:
    """Colour a map (H, W), float in [0, 1] or uint8, with a matplotlib colour map -> (H, W, 3)."""
    return _colour_table(colormap)[_levels(values)]


def cam_overlay(
    image: Picture, cam: NDArray[Any], *, opacity: float = HEAT_OPACITY, colormap: str = COLORMAP, outline: float | None = None
) -> Picture:
    """Lay a CAM's colours over its image: strong where the CAM is, the dimmed grey image where it is not.

    Args:
        image: (H, W, 3).
        cam: (h, w), float in [0, 1] or uint8; resized to the image when smaller.
        opacity: share of the heat colours at the CAM's maximum, in [0, 1].
        colormap: a matplotlib name; perceptually ordered ones (turbo, inferno, viridis) read best.
        outline: draw a white line where the CAM crosses this value in [0, 1] (the background threshold).
    """
    height, width = image.shape[:2]
    levels = cv2.resize(_levels(cam), (width, height), interpolation=cv2.INTER_LINEAR)
    strength = levels[..., None].astype(np.float32) / MAX_GREY
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    # Colour and brightness of the image return together with the heat, so that the lit part stays recognisable.
    dimmed = DIMMED * ((1 - strength) * grey + strength * image)
    share = opacity * (0.35 + 0.65 * strength)
    mixed = dimmed * (1 - share) + _colour_table(colormap)[levels] * share + strength * (1 - DIMMED) * (1 - share) * image
    out = np.clip(np.rint(mixed), 0, MAX_GREY).astype(np.uint8)
    if outline is not None:
        out[_edges((levels > outline * MAX_GREY).astype(np.uint8))] = PAPER
    return out


def draw_boxes(picture: Picture, boxes: Sequence[Sequence[int]], truth: Sequence[Sequence[int]], caption: str) -> Picture:
    """Draw predicted boxes (green) and true ones (red), [x0, y0, x1, y1], and a caption below -> (H + strip, W, 3)."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + TEXT_HEIGHT + MARGIN), PAPER)
    page.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(page)
    for group, colour in ((truth, TRUE_BOX), (boxes, FOUND_BOX)):
        for x0, y0, x1, y1 in group:
            draw.rectangle((x0, y0, max(x0, min(x1, width - 1)), max(y0, min(y1, height - 1))), outline=colour, width=2)
    draw.text((MARGIN // 2, height + MARGIN // 2), _shorten(caption, width - MARGIN), fill=INK, font=label_font())
    return np.array(page)


def label_colours(label_map: NDArray[np.uint8]) -> Picture:
    """Colour a label map (H, W) as the VOC palette does; ignored pixels (255) light grey."""
    table = np.frombuffer(palette(), np.uint8).reshape(-1, 3).copy()
    table[IGNORE] = IGNORED
    return table[label_map]


def label_overlay(
    image: Picture, label_map: NDArray[np.uint8], class_names: Sequence[str], *, opacity: float = 0.6, legend: bool = True
) -> Picture:
    """Lay a label map's colours and outlines over its image, with a legend of the labels it holds below.

    Args:
        image: (H, W, 3).
        label_map: (H, W), 0 background (left as it is), class + 1, 255 ignored.
        class_names: C names, background not among them.
        opacity: share of the label colours, in [0, 1].
        legend: add the strip below; the result is then taller than the image.
    """
    colours = label_colours(label_map).astype(np.float32)
    share = np.where(label_map == BACKGROUND, 0, opacity)[..., None]
    out = np.rint(image * (1 - share) + colours * share).astype(np.uint8)
    edges = _edges(label_map)
    out[edges] = np.where((label_map == BACKGROUND)[..., None], MAX_GREY, label_colours(label_map))[edges]
    if not legend:
        return out
    return np.concatenate([out, label_legend(np.unique(label_map).tolist(), class_names, image.shape[1])])


def label_strip(image: Picture, label_maps: Sequence[NDArray[np.uint8]]) -> Picture:
    """Lay each label map's colours over the image, black for background, and the N results side by side -> (H, N * W, 3).

    Args:
        image: (H, W, 3).
        label_maps: (H, W) each, 0 background, class + 1, 255 ignored.
    """
    colours = np.stack([label_colours(labels) for labels in label_maps]).astype(np.float32)
    mixed = np.rint(IMAGE_SHARE * image + (1 - IMAGE_SHARE) * colours).astype(np.uint8)
    return np.concatenate(list(mixed), axis=1)


def label_legend(values: Sequence[int], class_names: Sequence[str], width: int) -> Picture:
    """Draw swatches and names of label values (background left out), in as many lines as `width` pixels need."""
    entries = [(v, "ignored" if v == IGNORE else class_names[class_index(v)]) for v in values if v != BACKGROUND]
    lines: list[list[tuple[int, int, str]]] = [[]]
    x = MARGIN
    for value, name in entries:
        advance = SWATCH + MARGIN // 2 + _text_width(name) + MARGIN
        if lines[-1] and x + advance > width:
            lines.append([])
            x = MARGIN
        lines[-1].append((x, value, name))
        x += advance
    step = TEXT_HEIGHT + MARGIN // 2
    page = Image.new("RGB", (width, step * len(lines) + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        top = MARGIN // 2 + row * step
        for x, value, name in line:
            colour = tuple(label_colours(np.array([[value]], np.uint8))[0, 0].tolist())
            draw.rectangle((x, top + 1, x + SWATCH, top + SWATCH), fill=colour, outline=INK)
            draw.text((x + SWATCH + MARGIN // 2, top), name, fill=INK, font=label_font())
    return np.array(page)


def contact_sheet(rows: Sequence[Sequence[tuple[str, Picture]]], *, cell_height: int = CELL_HEIGHT) -> Picture:
    """Set captioned pictures in rows on white paper.

    Args:
        rows: for each row its (caption, picture (H, W, 3)) cells; rows may differ in length.
        cell_height: pixels every picture is scaled to, its aspect kept.

    Raises:
        ValueError: when there is no picture at all.
    """
    if not any(rows):
        raise ValueError("a contact sheet needs at least one picture")
    scaled = [[(caption, _to_height(picture, cell_height)) for caption, picture in row] for row in rows]
    columns = max(len(row) for row in scaled)
    # One width per column, so that cells of the same kind stand below each other.
    widths = [max(row[c][1].shape[1] for row in scaled if c < len(row)) for c in range(columns)]
    step = TEXT_HEIGHT + MARGIN // 2 + cell_height + MARGIN
    page = Image.new("RGB", (sum(widths) + MARGIN * (columns + 1), step * len(scaled) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    for r, row in enumerate(scaled):
        x, y = MARGIN, MARGIN + r * step
        for (caption, picture), width in zip(row, widths, strict=False):
            draw.text((x, y), _shorten(caption, width), fill=INK, font=label_font())
            page.paste(Image.fromarray(picture), (x, y + TEXT_HEIGHT + MARGIN // 2))
            x += width + MARGIN
    return np.array(page)


def on_checkerboard(cutout: NDArray[np.uint8]) -> Picture:
    """Lay a picture with alpha (H, W, 4) over a grey checkerboard -> (H, W, 3)."""
    height, width = cutout.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    squares = np.where((rows // CHECK + columns // CHECK) % 2, *CHECK_GREYS)[..., None]
    alpha = cutout[..., 3:].astype(np.float32) / MAX_GREY
    return np.rint(cutout[..., :3] * alpha + squares * (1 - alpha)).astype(np.uint8)


def fit_square(picture: Picture, side: int) -> Picture:
    """Scale a picture (H, W, 3) to fit a white square of `side` pixels, its aspect kept, in the middle."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
    page = np.full((side, side, 3), MAX_GREY, np.uint8)
    top, left = (side - rows) // 2, (side - columns) // 2
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    page[top : top + rows, left : left + columns] = cv2.resize(picture, (columns, rows), interpolation=interpolation)
    return page


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    return np.clip(np.rint(values.astype(np.float32) * MAX_GREY), 0, MAX_GREY).astype(np.uint8)


@functools.lru_cache
def _colour_table(colormap: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps  # here: a second to import, and only pictures need it

    return (colormaps[colormap](np.arange(MAX_GREY + 1))[:, :3] * MAX_GREY).round().astype(np.uint8)


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels whose right or lower neighbour has another value."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _to_height(picture: Picture, height: int) -> Picture:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    shrinking = height < picture.shape[0]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST)  # type: ignore[return-value]


@functools.lru_cache
def label_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT_HEIGHT - 2)


def _text_width(text: str) -> int:
    return round(label_font().getlength(text))


def _shorten(text: str, width: int) -> str:
    """Return `text` cut to `width` pixels, marked by an ellipsis."""
    if _text_width(text) <= width:
        return text
    while text and _text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"

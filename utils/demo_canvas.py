"""The paper and pens of the demo set's drawings: filled, shaded, outlined shapes on a supersampled canvas."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Colour = tuple[float, float, float]

SUPERSAMPLE = 4  # canvas pixels per image pixel and axis; averaging them is the antialiasing
FIXED_POINT_BITS = 4  # sub-pixel bits of OpenCV's polygon corners
LIGHT = (-0.40, -0.55, 0.73)  # direction to the light: from the upper left, towards the viewer
AMBIENT = 0.52  # brightness of a fully turned-away surface, of its colour
DIFFUSE = 0.60  # added where the surface faces the light


@dataclass(frozen=True)
class Frame:
    """Where a drawing's own coordinates lie on the canvas: `canvas = centre + scale * R(angle) * mirror * (x, y)`, y down."""

    centre: tuple[float, float]  # canvas pixels
    scale: float  # canvas pixels per unit
    angle: float = 0.0  # radians, clockwise on the picture
    mirrored: bool = False

    def to_canvas(self, points: FloatArray) -> FloatArray:
        """Local `points (N, 2)` in canvas pixels, (N, 2) float32."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x = -points[:, 0] if self.mirrored else points[:, 0]
        y = points[:, 1]
        turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
        return (turned * self.scale + np.asarray(self.centre)).astype(np.float32)


class Canvas:
    """A square picture of `size * SUPERSAMPLE` pixels a side: `rgb (S, S, 3)` float32 in [0, 1] and, for every pixel, the
    number of the drawing that owns it, `owner (S, S)` uint8, 0 for the background. Both are written by the same strokes, so
    that a mask is exactly what was drawn."""

    def __init__(self, size: int) -> None:
        self.side = size * SUPERSAMPLE
        self.size = size
        self.rgb: FloatArray = np.zeros((self.side, self.side, 3), np.float32)
        self.owner: NDArray[np.uint8] = np.zeros((self.side, self.side), np.uint8)

    def pen(self, frame: Frame | None = None, owner: int = 0) -> "Pen":
        """A pen for `frame` (default: x and y in [0, 1] over the canvas) whose strokes belong to drawing `owner`."""
        return Pen(self, frame or Frame((0.0, 0.0), float(self.side)), owner)

    def blend(self, alpha: FloatArray, colour: Colour) -> None:
        """Mix `colour` into the picture; `alpha (S, S)` in [0, 1]."""
        self.rgb += alpha[:, :, None] * (np.asarray(colour, np.float32) - self.rgb)

    def image(self) -> NDArray[np.uint8]:
        """The antialiased picture, (size, size, 3) uint8."""
        small = cv2.resize(self.rgb, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return (np.clip(small, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    def coverage(self, owner: int) -> FloatArray:
        """Share of every picture pixel that drawing `owner` fills, (size, size) float32 in [0, 1]."""
        mask = (self.owner == owner).astype(np.float32)
        return np.asarray(cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_AREA), np.float32)


class Pen:
    """Draws on a canvas in the coordinates of one frame, for one owner."""

    def __init__(self, canvas: Canvas, frame: Frame, owner: int) -> None:
        self.canvas = canvas
        self.frame = frame
        self.owner = owner

    def fill(
        self,
        points: FloatArray,
        colour: Colour,
        *,
        round: bool = False,
        outline: float = 0.0,
        clip: BoolArray | None = None,
    ) -> None:
        """Fill the closed curve `points (N, 2)`.

        Args:
            colour: RGB in [0, 1].
            round: shade it like a rounded body lit from the upper left instead of flatly.
            outline: width of a darker line around it, in the frame's units; the line belongs to the shape.
            clip: canvas pixels the shape may touch, (S, S); default all.
        """
        corners = self.frame.to_canvas(points)
        width = max(1, int(outline * self.frame.scale + 0.5)) if outline > 0 else 0
        window = self._window(corners, width + 1)
        if window is None:
            return
        rows, columns = window
        body, line = self._masks(corners, rows, columns, width)
        if clip is not None:
            body &= clip[rows, columns]
            line &= clip[rows, columns]
        paint = np.asarray(colour, np.float32)
        shade = _round_shading(corners, rows, columns)[body][:, None] if round else np.float32(1.0)
        patch = self.canvas.rgb[rows, columns]
        patch[body] = np.minimum(paint * shade, 1.0)
        patch[line] = paint * np.float32(0.38)
        self.canvas.owner[rows, columns][body | line] = self.owner

    def line(self, points: FloatArray, colour: Colour, width: float) -> None:
        """Draw the open curve `points (N, 2)` with round ends, `width` in the frame's units."""
        corners = self.frame.to_canvas(points)
        pixels = max(1, int(width * self.frame.scale + 0.5))
        window = self._window(corners, pixels)
        if window is None:
            return
        rows, columns = window
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        cv2.polylines(mask, [_fixed(corners, rows, columns)], False, 1, pixels, cv2.LINE_8, FIXED_POINT_BITS)
        drawn = mask > 0
        self.canvas.rgb[rows, columns][drawn] = colour
        self.canvas.owner[rows, columns][drawn] = self.owner

    def region(self, points: FloatArray) -> BoolArray:
        """Canvas pixels inside the closed curve `points (N, 2)`, (S, S) bool; for `fill(clip=...)`."""
        whole = slice(0, self.canvas.side)
        return self._masks(self.frame.to_canvas(points), whole, whole, 0)[0]

    def _window(self, corners: FloatArray, margin: int) -> tuple[slice, slice] | None:
        low = np.floor(corners.min(axis=0)).astype(int) - margin
        high = np.ceil(corners.max(axis=0)).astype(int) + margin + 1
        left, top = (int(v) for v in np.clip(low, 0, self.canvas.side))
        right, bottom = (int(v) for v in np.clip(high, 0, self.canvas.side))
        return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None

    @staticmethod
    def _masks(corners: FloatArray, rows: slice, columns: slice, outline: int) -> tuple[BoolArray, BoolArray]:
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        fixed = _fixed(corners, rows, columns)
        cv2.fillPoly(mask, [fixed], 1, cv2.LINE_8, FIXED_POINT_BITS)
        if outline:
            cv2.polylines(mask, [fixed], True, 2, outline, cv2.LINE_8, FIXED_POINT_BITS)
        return mask == 1, mask == 2


def _fixed(corners: FloatArray, rows: slice, columns: slice) -> NDArray[np.int32]:
    local = corners - np.asarray([columns.start, rows.start], np.float32)
    return np.round(local * (1 << FIXED_POINT_BITS)).astype(np.int32)


def _round_shading(corners: FloatArray, rows: slice, columns: slice) -> FloatArray:
    """Brightness of an ellipsoid that fills the curve's bounding box, over the window; about 0.4 to 1.1."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    centre, radius = (low + high) / 2, np.maximum((high - low) / 2, 1.0)
    x = ((np.arange(columns.start, columns.stop, dtype=np.float32) - centre[0]) / radius[0])[None, :]
    y = ((np.arange(rows.start, rows.stop, dtype=np.float32) - centre[1]) / radius[1])[:, None]
    z = np.sqrt(np.maximum(0.0, 1.0 - x * x - y * y))
    light = np.maximum(0.0, LIGHT[0] * x + LIGHT[1] * y + LIGHT[2] * z)
    return np.asarray(AMBIENT + DIFFUSE * light, np.float32)

"""The paper and pens of the demo set's drawings: filled, shaded, outlined shapes on a supersampled canvas."""

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Window = tuple[slice, slice]  # rows and columns of the canvas
Colour = tuple[float, float, float]

SUPERSAMPLE = 4  # canvas pixels per image pixel and axis; averaging them is the antialiasing
FIXED_POINT_BITS = 4  # sub-pixel bits of OpenCV's polygon corners
OUTLINE_MARK = 2  # value of outline pixels in a shape's mask
OUTLINE_SHADE = np.float32(0.38)  # brightness of an outline, of its shape's colour
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
        cos, sin = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        mirror = -1.0 if self.mirrored else 1.0
        turn = np.asarray([[cos * mirror, sin * mirror], [-sin, cos]], np.float32)
        return np.asarray(points @ turn + np.asarray(self.centre, np.float32), np.float32)


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
        if not round and outline == 0 and clip is None:
            self._fill_flat(corners, colour)
            return
        width = max(1, int(outline * self.frame.scale + 0.5)) if outline > 0 else 0
        window = self._window(corners, width + 1)
        if window is None:
            return
        mask = self._mask(corners, window, width)
        if clip is not None:
            mask[~clip[window]] = 0
        shade = _round_shading(corners, window)[:, :, None] if round else np.ones((*mask.shape, 1), np.float32)
        painted = np.minimum(np.asarray(colour, np.float32) * shade, 1.0)
        painted[mask == OUTLINE_MARK] = np.asarray(colour, np.float32) * OUTLINE_SHADE
        drawn = mask > 0
        np.copyto(self.canvas.rgb[window], painted, where=drawn[:, :, None])
        np.copyto(self.canvas.owner[window], np.uint8(self.owner), where=drawn)

    def line(self, points: FloatArray, colour: Colour, width: float) -> None:
        """Draw the open curve `points (N, 2)` with round ends, `width` in the frame's units."""
        corners = _fixed(self.frame.to_canvas(points))
        pixels = max(1, int(width * self.frame.scale + 0.5))
        for target, value in self._targets(colour):
            cv2.polylines(target, [corners], False, value, pixels, cv2.LINE_8, FIXED_POINT_BITS)

    def relight(self, points: FloatArray, factor: float) -> None:
        """Multiply what nobody owns inside the closed curve `points (N, 2)` by `factor`: a shadow or a ray of light."""
        corners = self.frame.to_canvas(points)
        window = self._window(corners, 1)
        if window is None:
            return
        free = (self._mask(corners, window) > 0) & (self.canvas.owner[window] == 0)
        light = np.where(free, np.float32(factor), np.float32(1.0))
        self.canvas.rgb[window] *= light[:, :, None]

    def region(self, points: FloatArray) -> BoolArray:
        """Canvas pixels inside the closed curve `points (N, 2)`, (S, S) bool; for `fill(clip=...)`."""
        whole = slice(0, self.canvas.side)
        return self._mask(self.frame.to_canvas(points), (whole, whole)) > 0

    def _fill_flat(self, corners: FloatArray, colour: Colour) -> None:
        for target, value in self._targets(colour):
            cv2.fillPoly(target, [_fixed(corners)], value, cv2.LINE_8, FIXED_POINT_BITS)

    def _targets(self, colour: Colour) -> tuple[tuple[FloatArray | NDArray[np.uint8], Colour], ...]:
        return (self.canvas.rgb, colour), (self.canvas.owner, (float(self.owner), 0.0, 0.0))

    def _window(self, corners: FloatArray, margin: int) -> Window | None:
        """Rows and columns of the canvas that `corners` with a margin reach; None when outside."""
        (low_x, low_y), (high_x, high_y) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        left, top = max(0, int(low_x) - margin), max(0, int(low_y) - margin)
        right, bottom = min(self.canvas.side, int(high_x) + margin + 2), min(self.canvas.side, int(high_y) + margin + 2)
        return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None

    @staticmethod
    def _mask(corners: FloatArray, window: Window, outline: int = 0) -> NDArray[np.uint8]:
        """0 outside, 1 inside and `OUTLINE_MARK` on the outline (pixels wide) of the closed curve, over `window`."""
        rows, columns = window
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        fixed = _fixed(corners - np.asarray([columns.start, rows.start], np.float32))
        cv2.fillPoly(mask, [fixed], 1, cv2.LINE_8, FIXED_POINT_BITS)
        if outline:
            cv2.polylines(mask, [fixed], True, OUTLINE_MARK, outline, cv2.LINE_8, FIXED_POINT_BITS)
        return mask


def _fixed(corners: FloatArray) -> NDArray[np.int32]:
    return np.rint(corners * (1 << FIXED_POINT_BITS)).astype(np.int32)


def _round_shading(corners: FloatArray, window: Window) -> FloatArray:
    """Brightness of an ellipsoid that fills the curve's bounding box, over the window; about 0.4 to 1.1."""
    rows, columns = window
    low, high = corners.min(axis=0), corners.max(axis=0)
    centre, radius = (low + high) / 2, np.maximum((high - low) / 2, 1.0)
    x = ((np.arange(columns.start, columns.stop, dtype=np.float32) - centre[0]) / radius[0])[None, :]
    y = ((np.arange(rows.start, rows.stop, dtype=np.float32) - centre[1]) / radius[1])[:, None]
    z = np.sqrt(np.maximum(0.0, 1.0 - x * x - y * y))
    light = np.maximum(0.0, LIGHT[0] * x + LIGHT[1] * y + LIGHT[2] * z)
    return np.asarray(AMBIENT + DIFFUSE * light, np.float32)


CURVE_POINTS = 48  # corners of a closed curve; below a supersampled pixel for the sizes drawn
SPLINE_STEPS = 8  # points between two control points of a smooth curve
_TURN = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1).astype(np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> FloatArray:
    """An ellipse around (x, y) with half-axes `rx`, `ry`, turned by `angle` radians (clockwise)."""
    cos, sin = math.cos(angle), math.sin(angle)
    axes = np.asarray([[cos * rx, sin * rx], [-sin * ry, cos * ry]], np.float32)
    return np.asarray(_CIRCLE @ axes + np.asarray([x, y], np.float32), np.float32)


def polygon(*corners: tuple[float, float]) -> FloatArray:
    """Straight lines through `corners`."""
    return np.asarray(corners, np.float32)


def smooth(*corners: tuple[float, float], closed: bool = True) -> FloatArray:
    """A Catmull-Rom curve through `corners`."""
    points = np.asarray(corners, np.float32)
    ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate([ends[0], points, ends[1]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, SPLINE_STEPS, endpoint=False, dtype=np.float32)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, start, end, after))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    flat = curve.reshape(-1, 2)
    return np.asarray(flat if closed else np.concatenate([flat, points[-1:]]), np.float32)


def tube(spine: FloatArray, widths: list[float]) -> FloatArray:
    """The closed outline of a bent tube along `spine (N, 2)`; `widths` (any number) are its half-widths from start to end."""
    along = np.linspace(0, 1, len(spine))
    half = np.interp(along, np.linspace(0, 1, len(widths)), widths)[:, None]
    direction = np.gradient(spine, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    side = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * half
    return np.concatenate([spine + side, (spine - side)[::-1]]).astype(np.float32)


def pear(width: float, height: float, belly: float) -> FloatArray:
    """A body around the origin: half-axes `width`, `height`; `belly` in [0, 0.3] moves the wide part down."""
    t = np.linspace(0, 2 * np.pi, 2 * CURVE_POINTS, endpoint=False)
    x = width * np.cos(t) * (1 + belly * np.sin(t))
    return np.stack([x, height * np.sin(t)], axis=1).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB in [0, 1] of hue (turns, any real), saturation and value in [0, 1]."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` in [0, 1] of `second`."""
    r, g, b = ((1 - share) * a + share * c for a, c in zip(first, second, strict=True))
    return r, g, b


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int = 3) -> FloatArray:
    """Smooth noise of `shape (H, W)`, mean about 0, within about [-1, 1]; `cells` blobs down and across, each octave halves
    the size and the height."""
    total: NDArray[np.float32] = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = rng.uniform(-1, 1, (cells[0] * 2**octave + 1, cells[1] * 2**octave + 1)).astype(np.float32)
        total += cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) * 0.5**octave
    return total

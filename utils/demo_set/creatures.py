"""The six creatures of the demo set: one plain body in any colour, told apart by one small part of its own colour each.

Coordinates: the body's centre is (0, 0), its half-height 0.5; y points down, the creature looks to the right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.demo_set.canvas import BoolArray, Colour, FloatArray, Pen, ellipse, hsv, mix, noise, pear, smooth, tube

OUTLINE = 0.022  # width of the dark line around every shape
FUR_CELLS = (12, 10)  # blobs of fur down and across a body
FUR_CONTRAST = np.float32(0.05)
WHITE: Colour = (0.97, 0.97, 0.95)
DARK: Colour = (0.10, 0.08, 0.10)
PART_SIZES = (1.03, 1.32)  # range of size factors of a class's part


@dataclass(frozen=True)
class Look:
    """What varies from one creature to the next, whatever its class. Lengths in body heights."""

    coat: Colour  # body
    trim: Colour  # belly, markings
    width: float  # half-width of the body
    belly: float  # how far down the wide part sits
    gaze: float  # shift of the face, negative to the left
    part: float  # size factor of the class's part
    lean: float  # random bend of the part, -1 to 1
    markings: str  # none, spots, stripes or belly


def random_look(rng: np.random.Generator) -> Look:
    """Draw a look; no field depends on the class."""
    hue = rng.uniform()
    saturation, value = rng.uniform(0.28, 0.80), rng.uniform(0.62, 0.96)
    coat = hsv(hue, saturation, value)
    return Look(
        coat=coat,
        trim=mix(coat, WHITE, 0.55) if rng.uniform() < 0.7 else hsv(hue + 0.08, saturation, value * 0.62),
        width=rng.uniform(0.36, 0.45),
        belly=rng.uniform(0.04, 0.24),
        gaze=rng.uniform(-0.07, 0.09),
        part=rng.uniform(*PART_SIZES),
        lean=rng.uniform(-1, 1),
        markings=str(rng.choice(["none", "belly", "spots", "stripes"])),
    )


def draw_creature(pen: Pen, part_pen: Pen, kind: str, look: Look, rng: np.random.Generator) -> None:
    """Draw one creature of class `kind` (a key of `PARTS`), about 1 high; `part_pen` adds the part that tells its class."""
    part = PARTS[kind]
    part.back(part_pen, look, part.colour)
    _draw_feet(pen, look)
    _draw_body(pen, look, rng)
    _draw_arms(pen, look)
    _draw_face(pen, look, rng)
    part.front(part_pen, look, part.colour)


def _draw_feet(pen: Pen, look: Look) -> None:
    for side in (-1, 1):
        pen.fill(ellipse(side * 0.19 + 0.03, 0.49, 0.15, 0.075), mix(look.coat, DARK, 0.25), round=True, outline=OUTLINE)


def _draw_body(pen: Pen, look: Look, rng: np.random.Generator) -> None:
    outline = pear(look.width, 0.5, look.belly)
    pen.fill(outline, look.coat, round=True, outline=OUTLINE)
    inside = pen.region(pear(look.width - OUTLINE, 0.5 - OUTLINE, look.belly))
    _draw_markings(pen, look, rng, inside)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if len(rows):
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        fur = noise(rng, inside[window].shape, FUR_CELLS, 2) * inside[window]
        pen.canvas.rgb[window] *= 1 + FUR_CONTRAST * fur[:, :, None]


def _draw_markings(pen: Pen, look: Look, rng: np.random.Generator, inside: BoolArray) -> None:
    if look.markings == "belly":
        pen.fill(ellipse(look.gaze, 0.20, look.width * 0.62, 0.24), look.trim, round=True, clip=inside)
    if look.markings == "spots":
        for _ in range(6):
            x, y, radius = rng.uniform(-0.34, 0.34), rng.uniform(0.08, 0.45), rng.uniform(0.03, 0.06)
            pen.fill(ellipse(x, y, radius, radius), look.trim, round=True, clip=inside)
    if look.markings == "stripes":
        for y in (0.14, 0.27, 0.40):
            stripe = smooth(
                (-0.6, y - 0.03), (0.0, y + 0.03), (0.6, y - 0.03), (0.6, y + 0.02), (0.0, y + 0.08), (-0.6, y + 0.02)
            )
            pen.fill(stripe, mix(look.coat, look.trim, 0.8), clip=inside)


def _draw_arms(pen: Pen, look: Look) -> None:
    for side in (-1, 1):
        x = side * look.width * 0.96
        pen.fill(ellipse(x, 0.13, 0.055, 0.14, -side * 0.5), mix(look.coat, DARK, 0.12), round=True, outline=OUTLINE)


def _draw_face(pen: Pen, look: Look, rng: np.random.Generator) -> None:
    eye_y, gap = -0.17 + rng.uniform(-0.02, 0.02), rng.uniform(0.12, 0.15)
    pupil = rng.uniform(-0.02, 0.025)
    for side in (-1, 1):
        x = look.gaze + side * gap
        pen.fill(ellipse(x, eye_y, 0.070, 0.085), WHITE, outline=OUTLINE * 0.6)
        pen.fill(ellipse(x + pupil, eye_y + 0.012, 0.038, 0.046), DARK)
        pen.fill(ellipse(x + pupil + 0.012, eye_y - 0.008, 0.013, 0.013), WHITE)
        pen.fill(ellipse(look.gaze + side * (gap + 0.07), eye_y + 0.115, 0.040, 0.024), mix(look.coat, (0.95, 0.35, 0.40), 0.5))
    smile = smooth((-0.07, 0.09), (0.0, 0.135), (0.07, 0.09), closed=False) + np.asarray([look.gaze, eye_y], np.float32)
    pen.line(smile, DARK, 0.02)


def _bend(*corners: tuple[float, float]) -> FloatArray:
    return smooth(*corners, closed=False)


def _nothing(pen: Pen, look: Look, colour: Colour) -> None:
    """Some classes have nothing behind, others nothing in front of the body."""


def _long_ears(pen: Pen, look: Look, colour: Colour) -> None:
    for side in (-1, 1):
        bend = 0.07 * look.lean + side * 0.06
        spine = _bend(
            (side * 0.13, -0.40), (side * 0.16 + bend * 0.3, -0.58), (side * 0.17 + bend * 1.4, -0.42 - 0.40 * look.part)
        )
        pen.fill(tube(spine, [0.06, 0.085, 0.085, 0.025]), colour, round=True, outline=OUTLINE)
        pen.fill(tube(spine[2:-2], [0.03, 0.042, 0.04, 0.012]), mix(colour, WHITE, 0.4))


def _round_ears(pen: Pen, look: Look, colour: Colour) -> None:
    radius = 0.145 * look.part
    for side in (-1, 1):
        x, y = side * (look.width * 0.66), -0.455
        pen.fill(ellipse(x, y, radius, radius), colour, round=True, outline=OUTLINE)
        pen.fill(ellipse(x, y, radius * 0.58, radius * 0.58), mix(colour, WHITE, 0.3), round=True)


def _horn(pen: Pen, look: Look, colour: Colour) -> None:
    tip = np.asarray([look.gaze + 0.09 + 0.10 * look.lean, -0.44 - 0.38 * look.part], np.float32)
    left, right = np.asarray([look.gaze - 0.10, -0.36], np.float32), np.asarray([look.gaze + 0.14, -0.37], np.float32)
    pen.fill(np.stack([left, tip, right]), colour, round=True, outline=OUTLINE)
    for share in (0.15, 0.38, 0.60):
        pen.line(np.stack([left + (tip - left) * share, right + (tip - right) * (share + 0.12)]), mix(colour, DARK, 0.5), 0.022)


def _feelers(pen: Pen, look: Look, colour: Colour) -> None:
    for side in (-1, 1):
        x = side * 0.25 + 0.06 * look.lean
        y = -0.46 - 0.26 * look.part
        spine = _bend((side * 0.08, -0.42), (side * 0.10, -0.60), (x, y))
        pen.fill(tube(spine, [0.03, 0.03]), mix(colour, DARK, 0.3), outline=OUTLINE * 0.5)
        pen.fill(ellipse(x, y, 0.125, 0.125), colour, round=True, outline=OUTLINE)


def _spikes(pen: Pen, look: Look, colour: Colour) -> None:
    """A crest of four spikes over the back of the head and the back."""
    for angle, height in ((-1.75, 0.22), (-2.20, 0.26), (-2.65, 0.26), (-3.10, 0.22)):
        base = np.asarray([np.cos(angle) * look.width, np.sin(angle) * 0.5], np.float32)
        outward = base / np.linalg.norm(base)
        across = np.asarray([-outward[1], outward[0]], np.float32) * 0.115
        tip = base + outward * height * look.part + across * 0.3 * look.lean
        inner = base - outward * 0.06
        pen.fill(np.stack([inner + across, tip, inner - across]), colour, round=True, outline=OUTLINE)


def _bushy_tail(pen: Pen, look: Look, colour: Colour) -> None:
    """A tail that curls up behind the back, with a pale tip."""
    top = -0.02 - 0.20 * look.part + 0.05 * look.lean
    spine = _bend((-0.26, 0.40), (-0.52, 0.36), (-0.63, 0.12), (-0.56, top), (-0.68, top - 0.12))
    pen.fill(tube(spine, [0.05, 0.12, 0.14, 0.13, 0.03]), mix(colour, DARK, 0.10), round=True, outline=OUTLINE)
    pen.fill(tube(spine[-12:], [0.06, 0.075, 0.05, 0.01]), mix(colour, WHITE, 0.65), round=True)


@dataclass(frozen=True)
class Part:
    """What tells a class from the others."""

    back: Callable[[Pen, Look, Colour], None]  # draws what is behind the body
    front: Callable[[Pen, Look, Colour], None]  # draws what is in front of it
    colour: Colour  # the same in all pictures: a classifier learns it in the demo's few minutes, mere outlines it memorises


PARTS: dict[str, Part] = {
    "bunny": Part(_long_ears, _nothing, (0.98, 0.62, 0.70)),
    "bear": Part(_round_ears, _nothing, (0.45, 0.28, 0.15)),
    "unicorn": Part(_nothing, _horn, (1.00, 0.88, 0.10)),
    "beetle": Part(_feelers, _nothing, (0.10, 0.35, 0.95)),
    "dragon": Part(_spikes, _nothing, (0.90, 0.08, 0.10)),
    "squirrel": Part(_bushy_tail, _nothing, (0.92, 0.50, 0.12)),
}
"""Class name -> its part; the order is the class order of the data set."""

CREATURES = tuple(PARTS)

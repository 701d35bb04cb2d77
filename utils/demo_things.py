"""Things that stand about in the demo pictures without a label: eye-catching, but of no class.

Coordinates as for the creatures: centred on (0, 0), about 1 high, y down.
"""

from collections.abc import Callable

import numpy as np

from utils.demo_canvas import Colour, Pen
from utils.demo_shapes import ellipse, hsv, mix, polygon, smooth, tube

OUTLINE = 0.03
WHITE: Colour = (0.97, 0.96, 0.93)
WOOD: Colour = (0.52, 0.35, 0.20)


def draw_thing(pen: Pen, rng: np.random.Generator) -> None:
    """Draw one thing of a random kind and colour with `pen`."""
    first = hsv(rng.uniform(), rng.uniform(0.55, 0.9), rng.uniform(0.7, 0.97))
    second = WHITE if rng.uniform() < 0.5 else hsv(rng.uniform(), rng.uniform(0.5, 0.9), rng.uniform(0.7, 0.97))
    THINGS[int(rng.integers(len(THINGS)))](pen, first, second)


def _ball(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(ellipse(0, 0, 0.45, 0.45), first, round=True, outline=OUTLINE)
    inside = pen.region(ellipse(0, 0, 0.43, 0.43))
    pen.fill(ellipse(0.05, 0, 0.17, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(-0.5, 0.1, 0.20, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(0.58, -0.1, 0.20, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(-0.16, -0.22, 0.07, 0.05, -0.6), WHITE)


def _gift(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(polygon((-0.42, -0.22), (0.42, -0.22), (0.42, 0.45), (-0.42, 0.45)), first, round=True, outline=OUTLINE)
    pen.fill(polygon((-0.48, -0.30), (0.48, -0.30), (0.48, -0.12), (-0.48, -0.12)), mix(first, WHITE, 0.2), outline=OUTLINE)
    pen.fill(polygon((-0.08, -0.30), (0.08, -0.30), (0.08, 0.44), (-0.08, 0.44)), second)
    for side in (-1, 1):
        pen.fill(ellipse(side * 0.15, -0.38, 0.15, 0.08, side * -0.4), second, round=True, outline=OUTLINE)


def _umbrella(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(
        tube(smooth((0, -0.3), (0, 0.40), (0.07, 0.49), (0.14, 0.40), closed=False), [0.022, 0.022]),
        WOOD,
        outline=OUTLINE * 0.5,
    )
    angles = np.linspace(np.pi, 2 * np.pi, 25)
    dome = [(0.5 * float(np.cos(a)), 0.5 * float(np.sin(a)) + 0.05) for a in angles]
    rim = [(0.34, -0.01), (0.17, 0.05), (0.0, -0.01), (-0.17, 0.05), (-0.34, -0.01)]
    pen.fill(polygon(*dome, *rim), first, round=True, outline=OUTLINE)
    inside = pen.region(polygon(*dome, *rim))
    pen.fill(ellipse(0, 0.0, 0.16, 0.46), second, round=True, clip=inside)
    pen.fill(ellipse(0, -0.47, 0.02, 0.05), WOOD)


def _lantern(pen: Pen, first: Colour, second: Colour) -> None:
    dark = mix(first, (0.1, 0.1, 0.12), 0.55)
    pen.fill(polygon((-0.04, -0.05), (0.04, -0.05), (0.04, 0.45), (-0.04, 0.45)), dark, round=True, outline=OUTLINE)
    pen.fill(ellipse(0, 0.46, 0.20, 0.05), dark, round=True, outline=OUTLINE)
    pen.fill(polygon((-0.20, -0.36), (0.20, -0.36), (0.13, -0.03), (-0.13, -0.03)), (0.99, 0.92, 0.62), outline=OUTLINE)
    pen.fill(polygon((-0.27, -0.35), (0.0, -0.52), (0.27, -0.35)), dark, outline=OUTLINE)


def _balloon(pen: Pen, first: Colour, second: Colour) -> None:
    pen.line(smooth((0, 0.1), (0.05, 0.25), (-0.04, 0.38), (0.03, 0.52), closed=False), mix(second, WOOD, 0.6), 0.02)
    pen.fill(polygon((-0.05, 0.16), (0, 0.08), (0.05, 0.16)), first, outline=OUTLINE)
    pen.fill(
        smooth((0, 0.10), (-0.28, -0.12), (-0.22, -0.44), (0, -0.53), (0.22, -0.44), (0.28, -0.12)),
        first,
        round=True,
        outline=OUTLINE,
    )
    pen.fill(ellipse(-0.10, -0.33, 0.05, 0.08, 0.4), WHITE)


def _toadstool(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(
        smooth((-0.13, -0.05), (0.13, -0.05), (0.17, 0.42), (0, 0.47), (-0.17, 0.42)),
        (0.93, 0.88, 0.78),
        round=True,
        outline=OUTLINE,
    )
    cap = smooth((-0.46, 0.02), (-0.34, -0.30), (0, -0.46), (0.34, -0.30), (0.46, 0.02), (0, 0.09))
    pen.fill(cap, first, round=True, outline=OUTLINE)
    for x, y, radius in ((-0.25, -0.10, 0.07), (0.02, -0.26, 0.09), (0.27, -0.10, 0.06), (0.05, -0.02, 0.05)):
        pen.fill(ellipse(x, y, radius, radius * 0.85), WHITE)


THINGS: tuple[Callable[[Pen, Colour, Colour], None], ...] = (_ball, _gift, _umbrella, _lantern, _balloon, _toadstool)

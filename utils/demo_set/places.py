"""The places where the demo pictures play: textured, cluttered, and saying nothing about the creatures in them.

Every place paints the whole canvas through a pen whose x and y run over [0, 1], y down.
"""

from collections.abc import Callable

import cv2
import numpy as np

from utils.demo_set.canvas import SUPERSAMPLE, Canvas, Colour, FloatArray, Pen, ellipse, hsv, mix, noise, polygon, smooth, tube

WHITE: Colour = (1.0, 1.0, 1.0)
COARSE = SUPERSAMPLE  # gradients and noise are computed per picture pixel and enlarged: nothing finer would survive


def draw_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a random place over the whole canvas."""
    PLACES[int(rng.integers(len(PLACES)))](canvas, rng)


def _gradient(
    canvas: Canvas, rng: np.random.Generator, top: float, bottom: float, colours: tuple[Colour, Colour], rough: float
) -> None:
    """Rows `top` to `bottom` (shares of the height): a vertical gradient with noise of amplitude `rough`."""
    first, last = int(top * canvas.side), int(bottom * canvas.side)
    shape = (max(1, (last - first) // COARSE), canvas.side // COARSE)
    t = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    plain = np.asarray(colours[0], np.float32) * (1 - t) + np.asarray(colours[1], np.float32) * t
    grain = noise(rng, shape, (4, 8), 4)[:, :, None] * rough
    grain = grain + rng.normal(0, rough * 0.35, (*shape, 1)).astype(np.float32)
    small = np.clip(plain * (1 + grain), 0, 1).astype(np.float32)
    canvas.rgb[first:last] = cv2.resize(small, (canvas.side, last - first), interpolation=cv2.INTER_LINEAR)


def _glow(canvas: Canvas, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
    """A soft glow around (x, y), half as strong at `radius`."""
    reach = 3 * radius
    rows, columns = (slice(max(0, int((c - reach) * canvas.side)), int((c + reach) * canvas.side)) for c in (y, x))
    patch = canvas.rgb[rows, columns]
    dy = (np.arange(patch.shape[0], dtype=np.float32) + rows.start) / canvas.side - y
    dx = (np.arange(patch.shape[1], dtype=np.float32) + columns.start) / canvas.side - x
    alpha = strength * np.exp2(-(dx[None, :] ** 2 + dy[:, None] ** 2) / radius**2)
    patch += alpha[:, :, None].astype(np.float32) * (np.asarray(colour, np.float32) - patch)


def _clouds(pen: Pen, rng: np.random.Generator, lowest: float, colour: Colour) -> None:
    for _ in range(int(rng.integers(1, 4))):
        x, y, size = rng.uniform(), rng.uniform(0.04, lowest), rng.uniform(0.05, 0.10)
        for dx, dy, r in ((-1.1, 0.2, 0.7), (1.1, 0.2, 0.65), (-0.4, -0.2, 0.9), (0.5, -0.1, 0.85), (0, 0.3, 1.0)):
            pen.fill(ellipse(x + dx * size, y + dy * size, r * size, 0.62 * r * size), colour)


def _ridge(pen: Pen, rng: np.random.Generator, y: float, rise: float, colour: Colour) -> None:
    """Hills: everything below a wavy line about `y`."""
    corners = [(x, y - rise * rng.uniform(0, 1)) for x in np.linspace(-0.2, 1.2, 8)]
    pen.fill(np.concatenate([smooth(*corners, closed=False), polygon((1.2, 1.1), (-0.2, 1.1))]), colour)


def _blades(pen: Pen, rng: np.random.Generator, top: float, count: int, colours: tuple[Colour, Colour]) -> None:
    """Grass: bent blades, larger towards the viewer."""
    for y in np.sort(rng.uniform(top, 1.05, count)):
        x, tall = rng.uniform(), 0.03 + 0.07 * (y - top) / (1.05 - top)
        bend = rng.uniform(-0.5, 0.5) * tall
        colour = mix(*colours, float(rng.uniform()))
        pen.fill(polygon((x - 0.006, y), (x + bend * 0.4, y - tall * 0.6), (x + bend, y - tall), (x + 0.006, y)), colour)


def _pebbles(pen: Pen, rng: np.random.Generator, top: float, count: int, colour: Colour) -> None:
    for y in np.sort(rng.uniform(top, 1.0, count)):
        radius = rng.uniform(0.006, 0.012) + 0.014 * (y - top)
        tint = mix(colour, hsv(rng.uniform(), 0.25, rng.uniform(0.35, 0.9)), 0.6)
        pen.fill(ellipse(rng.uniform(), y, radius * 1.3, radius), tint, round=True)


def _flowers(pen: Pen, rng: np.random.Generator, top: float, count: int) -> None:
    for _ in range(count):
        x, y, r = rng.uniform(), rng.uniform(top, 0.98), rng.uniform(0.010, 0.018)
        petal = hsv(rng.uniform(), rng.uniform(0.2, 0.8), 0.97)
        for turn in np.arange(5) * 2 * np.pi / 5:
            pen.fill(ellipse(x + r * np.cos(turn), y + r * np.sin(turn), r * 0.75, r * 0.75), petal)
        pen.fill(ellipse(x, y, r * 0.6, r * 0.6), (0.98, 0.85, 0.25))


def _meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, horizon, hue = canvas.pen(), rng.uniform(0.3, 0.55), rng.uniform(0.22, 0.36)
    sky = hsv(rng.uniform(0.52, 0.62), rng.uniform(0.3, 0.6), 0.95)
    _gradient(canvas, rng, 0, 1, (sky, mix(sky, WHITE, 0.7)), 0.02)
    _clouds(pen, rng, horizon * 0.7, (0.98, 0.98, 0.99))
    _ridge(pen, rng, horizon + 0.03, 0.16, hsv(hue + 0.08, 0.30, 0.72))
    _gradient(canvas, rng, horizon, 1, (hsv(hue, 0.45, 0.72), hsv(hue, 0.65, 0.50)), 0.15)
    _blades(pen, rng, horizon, int(rng.integers(60, 160)), (hsv(hue - 0.04, 0.6, 0.75), hsv(hue + 0.03, 0.7, 0.38)))
    _flowers(pen, rng, horizon + 0.05, int(rng.integers(0, 16)))


def _beach(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, horizon, shore = canvas.pen(), rng.uniform(0.18, 0.35), rng.uniform(0.45, 0.65)
    sky, sea = hsv(rng.uniform(0.5, 0.6), rng.uniform(0.2, 0.5), 0.97), hsv(rng.uniform(0.47, 0.6), 0.65, 0.72)
    sand = hsv(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.45), 0.92)
    _gradient(canvas, rng, 0, horizon, (sky, mix(sky, (1.0, 0.9, 0.75), 0.6)), 0.02)
    _glow(canvas, rng.uniform(), rng.uniform(0.02, horizon), 0.05, (1.0, 0.97, 0.75), 0.95)
    _gradient(canvas, rng, horizon, 1, (mix(sea, (0.05, 0.2, 0.4), 0.3), mix(sea, WHITE, 0.3)), 0.06)
    for _ in range(26):
        x, y, long = rng.uniform(-0.1, 1), rng.uniform(horizon, shore), rng.uniform(0.04, 0.16)
        pen.line(
            smooth((x, y), (x + long / 2, y - 0.008), (x + long, y), closed=False),
            mix(sea, WHITE, rng.uniform(0.3, 0.8)),
            0.006,
        )
    _ridge(pen, rng, shore, 0.04, WHITE)
    _gradient(canvas, rng, shore, 1, (mix(sand, (0.5, 0.4, 0.3), 0.25), sand), 0.10)
    _pebbles(pen, rng, shore + 0.02, int(rng.integers(15, 50)), sand)


def _forest(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, hue, ground = canvas.pen(), rng.uniform(0.2, 0.42), rng.uniform(0.5, 0.7)
    mist = hsv(hue, rng.uniform(0.15, 0.35), rng.uniform(0.65, 0.9))
    _gradient(canvas, rng, 0, 1, (mist, mix(mist, WHITE, 0.3)), 0.12)
    for depth in (0.3, 0.6, 0.95):
        bark = mix(mist, hsv(rng.uniform(0.04, 0.1), 0.5, 0.32), depth)
        for x in rng.uniform(-0.05, 1.05, int(rng.integers(2, 5))):
            half, foot = 0.012 + 0.035 * depth, ground + 0.12 * depth
            pen.fill(
                smooth(
                    (x - half, -0.1),
                    (x + half, -0.1),
                    (x + half * 1.1, foot - 0.1),
                    (x + half * 1.9, foot),
                    (x - half * 1.8, foot),
                ),
                bark,
                round=True,
            )
    _gradient(canvas, rng, ground, 1, (hsv(hue, 0.4, 0.45), hsv(hue - 0.08, 0.5, 0.30)), 0.25)
    _blades(pen, rng, ground, int(rng.integers(50, 130)), (hsv(hue, 0.5, 0.62), hsv(hue + 0.05, 0.6, 0.25)))
    _pebbles(pen, rng, ground, int(rng.integers(5, 25)), hsv(hue, 0.2, 0.5))
    for _ in range(40):
        x, y, r = rng.uniform(), rng.uniform(-0.02, 0.22), rng.uniform(0.02, 0.05)
        pen.fill(
            ellipse(x, y, r, r * 0.6, rng.uniform(-1, 1)),
            mix(mist, hsv(hue + rng.uniform(-0.05, 0.05), 0.6, 0.42), rng.uniform(0.4, 1)),
        )


def _room(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, floor = canvas.pen(), rng.uniform(0.58, 0.75)
    paper = hsv(rng.uniform(), rng.uniform(0.12, 0.45), rng.uniform(0.7, 0.95))
    print_ = mix(paper, hsv(rng.uniform(), 0.5, rng.uniform(0.5, 0.95)), 0.5)
    _gradient(canvas, rng, 0, 1, (paper, mix(paper, (0.2, 0.15, 0.1), 0.15)), 0.04)
    step, motif = rng.uniform(0.07, 0.15), int(rng.integers(3))
    for i, x in enumerate(np.arange(step / 2, 1.1, step)):
        if motif == 0:
            pen.fill(polygon((x, 0), (x + step * 0.4, 0), (x + step * 0.4, floor), (x, floor)), print_)
            continue
        for y in np.arange(step * (0.25 + 0.5 * (i % 2)), floor, step):
            r = step * 0.24
            pen.fill(
                ellipse(x, y, r, r) if motif == 1 else polygon((x - r, y), (x, y - r * 1.5), (x + r, y), (x, y + r * 1.5)),
                print_,
            )
    _planks(canvas, pen, rng, floor)
    pen.fill(
        polygon((0, floor - 0.035), (1, floor - 0.035), (1, floor + 0.005), (0, floor + 0.005)),
        mix(paper, WHITE, 0.6),
        outline=0.004,
    )


def _planks(canvas: Canvas, pen: Pen, rng: np.random.Generator, top: float) -> None:
    wood = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.6), rng.uniform(0.55, 0.85))
    _gradient(canvas, rng, top, 1, (mix(wood, (0.1, 0.05, 0.0), 0.25), wood), 0.14)
    vanish = rng.uniform(0.2, 0.8)
    for foot in np.arange(-1.5, 2.5, 0.22):
        pen.line(polygon((vanish + (foot - vanish) * 0.45, top), (foot, 1.0)), mix(wood, (0.15, 0.08, 0.02), 0.6), 0.006)


def _night(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, hue, ground = canvas.pen(), rng.uniform(0.58, 0.78), rng.uniform(0.5, 0.68)
    _gradient(canvas, rng, 0, 1, (hsv(hue, 0.65, 0.22), hsv(hue + 0.05, 0.45, 0.55)), 0.10)
    for x, y in rng.uniform(0, 1, (45, 2)) * [1, ground]:
        r = rng.uniform(0.003, 0.008)
        pen.fill(ellipse(x, y, r, r), (1.0, 0.98, rng.uniform(0.7, 1.0)))
    moon = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2)
    _glow(canvas, *moon, 0.10, (0.9, 0.9, 1.0), 0.35)
    pen.fill(ellipse(*moon, 0.055, 0.055), (0.98, 0.96, 0.82), round=True)
    _ridge(pen, rng, ground, 0.22, hsv(hue, 0.45, 0.42))
    _ridge(pen, rng, ground + 0.06, 0.10, hsv(hue, 0.30, 0.62))
    snow = hsv(hue, rng.uniform(0.05, 0.2), rng.uniform(0.75, 0.92))
    _gradient(canvas, rng, ground + 0.06, 1, (mix(snow, hsv(hue, 0.4, 0.5), 0.5), snow), 0.07)
    _pebbles(pen, rng, ground + 0.1, int(rng.integers(4, 20)), mix(snow, hsv(hue, 0.4, 0.4), 0.5))


def _underwater(canvas: Canvas, rng: np.random.Generator) -> None:
    pen, hue, ground = canvas.pen(), rng.uniform(0.45, 0.6), rng.uniform(0.72, 0.85)
    _gradient(canvas, rng, 0, 1, (hsv(hue, 0.45, 0.88), hsv(hue + 0.04, 0.75, 0.45)), 0.08)
    for x in rng.uniform(-0.2, 1, 4):
        wide, slant = rng.uniform(0.03, 0.09), rng.uniform(0.1, 0.4)
        pen.relight(polygon((x, 0), (x + wide, 0), (x + slant + 2 * wide, 0.9), (x + slant, 0.9)), 1.12)
    _ridge(pen, rng, ground + 0.02, 0.08, hsv(0.11, 0.3, 0.55))
    _gradient(canvas, rng, ground, 1, (hsv(0.11, 0.32, 0.60), hsv(0.11, 0.30, 0.80)), 0.12)
    _pebbles(pen, rng, ground, int(rng.integers(10, 35)), hsv(0.1, 0.3, 0.7))
    for x in rng.uniform(0, 1, int(rng.integers(5, 14))):
        foot, tall, sway = rng.uniform(ground, 1.0), rng.uniform(0.15, 0.45), rng.uniform(-0.05, 0.05)
        weed = smooth(
            (x, foot), (x + sway, foot - tall * 0.35), (x - sway, foot - tall * 0.7), (x + sway, foot - tall), closed=False
        )
        pen.line(weed, hsv(rng.uniform(0.2, 0.42), 0.65, rng.uniform(0.35, 0.65)), rng.uniform(0.012, 0.024))
    for x, y in rng.uniform(0, 0.9, (18, 2)):
        r = rng.uniform(0.005, 0.016)
        pen.line(_closed(ellipse(x, y, r, r)), mix(hsv(hue, 0.3, 0.9), WHITE, 0.6), 0.005)


def _closed(curve: FloatArray) -> FloatArray:
    return np.concatenate([curve, curve[:1]])


PLACES: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (_meadow, _beach, _forest, _room, _night, _underwater)


OUTLINE = 0.03
CREAM: Colour = (0.97, 0.96, 0.93)
WOOD: Colour = (0.52, 0.35, 0.20)


def draw_thing(pen: Pen, rng: np.random.Generator) -> None:
    """Draw one thing of a random kind and colour with `pen`."""
    first = hsv(rng.uniform(), rng.uniform(0.55, 0.9), rng.uniform(0.7, 0.97))
    second = CREAM if rng.uniform() < 0.5 else hsv(rng.uniform(), rng.uniform(0.5, 0.9), rng.uniform(0.7, 0.97))
    THINGS[int(rng.integers(len(THINGS)))](pen, first, second)


def _ball(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(ellipse(0, 0, 0.45, 0.45), first, round=True, outline=OUTLINE)
    inside = pen.region(ellipse(0, 0, 0.43, 0.43))
    pen.fill(ellipse(0.05, 0, 0.17, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(-0.5, 0.1, 0.20, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(0.58, -0.1, 0.20, 0.60, 0.3), second, round=True, clip=inside)
    pen.fill(ellipse(-0.16, -0.22, 0.07, 0.05, -0.6), CREAM)


def _gift(pen: Pen, first: Colour, second: Colour) -> None:
    pen.fill(polygon((-0.42, -0.22), (0.42, -0.22), (0.42, 0.45), (-0.42, 0.45)), first, round=True, outline=OUTLINE)
    pen.fill(polygon((-0.48, -0.30), (0.48, -0.30), (0.48, -0.12), (-0.48, -0.12)), mix(first, CREAM, 0.2), outline=OUTLINE)
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
    pen.fill(ellipse(-0.10, -0.33, 0.05, 0.08, 0.4), CREAM)


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
        pen.fill(ellipse(x, y, radius, radius * 0.85), CREAM)


THINGS: tuple[Callable[[Pen, Colour, Colour], None], ...] = (_ball, _gift, _umbrella, _lantern, _balloon, _toadstool)

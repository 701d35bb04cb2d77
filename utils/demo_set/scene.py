"""One picture of the demo set: creatures and clutter in a place, with its label map and an imperfect saliency map."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.classes import label_value
from utils.demo_set.canvas import Canvas, FloatArray, Frame, ellipse, noise
from utils.demo_set.creatures import CREATURES, draw_creature, random_look
from utils.demo_set.places import draw_background, draw_thing

FAINT_CHANCE = 0.09  # an object is seen only weakly
FAINT = (0.20, 0.45)  # its brightness then
CLEAR = (0.82, 1.0)  # brightness of the other objects
MISSING_CHANCE = 0.50  # a piece of an object is not seen
MISSING_RADIUS = (0.20, 0.38)  # of that piece, in object heights
FALSE_ALARM_CHANCE = 0.5  # an unlabelled thing is salient
FALSE_BRIGHTNESS = (0.55, 1.0)
WARP = (0.006, 0.024)  # wrong outlines: shift in picture sides
BLUR = (0.008, 0.022)  # standard deviation in picture sides
HAZE = 0.10  # brightest glimmer of the empty background


def imperfect_saliency(creatures: list[FloatArray], things: list[FloatArray], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a saliency map.

    Args:
        creatures: visible coverage of every labelled object, (H, W) in [0, 1].
        things: the same for the unlabelled things.

    Returns:
        (H, W) uint8, 255 is salient.
    """
    size = creatures[0].shape[0]
    total = np.zeros_like(creatures[0])
    for coverage in creatures:
        faint = rng.uniform() < FAINT_CHANCE
        seen = coverage * np.float32(rng.uniform(*(FAINT if faint else CLEAR)))
        total = np.maximum(total, seen * _missing_piece(coverage, rng))
    for coverage in things:
        if rng.uniform() < FALSE_ALARM_CHANCE:
            total = np.maximum(total, coverage * np.float32(rng.uniform(*FALSE_BRIGHTNESS)))
    blurred = cv2.GaussianBlur(_warped(total, rng), (0, 0), rng.uniform(*BLUR) * size)
    haze = np.maximum(0.0, noise(rng, (size, size), (3, 3), 2)) * rng.uniform(0, HAZE)
    unsure = 1 + 0.10 * noise(rng, (size, size), (5, 5), 2)
    return np.rint(np.clip(blurred * unsure + haze, 0, 1) * 255).astype(np.uint8)


def _missing_piece(coverage: FloatArray, rng: np.random.Generator) -> FloatArray:
    """1 where the object is seen, falling to 0 around a random place of it."""
    rows, columns = np.nonzero(coverage > 0.5)
    if rng.uniform() >= MISSING_CHANCE or len(rows) == 0:
        return np.ones_like(coverage)
    place = int(rng.integers(len(rows)))
    radius = rng.uniform(*MISSING_RADIUS) * max(int(np.ptp(rows)), int(np.ptp(columns)), 1)
    y, x = np.ogrid[: coverage.shape[0], : coverage.shape[1]]
    distance = np.sqrt((y - rows[place]) ** 2 + (x - columns[place]) ** 2) / radius
    return np.clip(3 * distance - 2, 0, 1).astype(np.float32)


def _warped(picture: FloatArray, rng: np.random.Generator) -> FloatArray:
    size = picture.shape[0]
    shift = rng.uniform(*WARP) * size
    y, x = np.mgrid[:size, :size].astype(np.float32)
    dx, dy = (noise(rng, (size, size), (5, 5), 2) * shift for _ in range(2))
    return np.asarray(cv2.remap(picture, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


SPLITS = ("train", "val")
CREATURE_COUNTS = (0.50, 0.35, 0.15)  # chances of 1, 2, 3 creatures
THING_COUNTS = (0.25, 0.45, 0.30)  # chances of 0, 1, 2 unlabelled things
HEIGHTS = ((0.42, 0.62), (0.33, 0.46), (0.28, 0.39))  # body height in picture sides, for 1, 2, 3 creatures
THING_HEIGHTS = (0.18, 0.34)
TILT = 0.22  # standard deviation of a creature's angle, radians
TUMBLE_CHANCE, TUMBLE = 0.15, 1.1  # sometimes any angle up to TUMBLE radians
MARGIN = 0.60  # of an object's height: how far its centre stays from the border
HEADROOM = 0.85  # the same at the top, where most creatures have their part
SPACING = 0.88  # distance of two centres over the sum of their radii, at least; below 1 is overlap
PLACE_TRIES = 60  # random places tried before the roomiest one is taken
SCENE_TRIES = 12  # arrangements tried until every creature can be recognised
VISIBLE_BODY, VISIBLE_PART = 0.65, 0.65  # least share of a creature, and of its part, not hidden by others


@dataclass(frozen=True)
class Scene:
    """A finished picture."""

    image: NDArray[np.uint8]  # (size, size, 3) RGB
    label: NDArray[np.uint8]  # (size, size): 0 background, class + 1
    saliency: NDArray[np.uint8]  # (size, size), 255 is salient
    classes: tuple[int, ...]  # sorted 0-based classes in it


@dataclass(frozen=True)
class _Actor:
    """One object on the stage; `kind` is a class index, or -1 for an unlabelled thing."""

    kind: int
    x: float
    y: float
    height: float
    angle: float
    mirrored: bool
    seed: int

    @property
    def foot(self) -> float:
        return self.y + 0.5 * self.height


def draw_scene(seed: int, split: str, index: int, size: int, *, alone: bool = False) -> Scene:
    """Draw picture `index` of `split` ("train" or "val"), `size` pixels square.

    Every draw comes from (seed, split, index) alone: a picture does not depend on how many others there are. Creature
    `index % 6` is always in it, so that the classes are balanced; `alone`: no other creature is.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = Canvas(size)
    draw_background(canvas, rng)
    place, kinds = canvas.rgb.copy(), _cast(rng, index, alone=alone)
    for _ in range(SCENE_TRIES):
        canvas.rgb[:], canvas.owner[:] = place, 0
        actors = _arrange(rng, kinds)
        if _draw_actors(canvas, actors):
            break
    return _finish(canvas, actors, rng)


def _cast(rng: np.random.Generator, index: int, *, alone: bool) -> list[int]:
    """Class indices of the creatures, then -1 for every unlabelled thing."""
    extra = 0 if alone else int(rng.choice(len(CREATURE_COUNTS), p=CREATURE_COUNTS))
    kinds = [index % len(CREATURES), *(int(k) for k in rng.integers(len(CREATURES), size=extra))]
    return kinds + [-1] * int(rng.choice(len(THING_COUNTS), p=THING_COUNTS))


def _arrange(rng: np.random.Generator, kinds: list[int]) -> list[_Actor]:
    """Give every object a size, an angle and a place; sorted from back to front."""
    low, high = HEIGHTS[sum(kind >= 0 for kind in kinds) - 1]
    placed: list[_Actor] = []
    for kind in kinds:
        height = rng.uniform(low, high) if kind >= 0 else rng.uniform(*THING_HEIGHTS)
        tumbles = rng.uniform() < TUMBLE_CHANCE
        angle = rng.uniform(-TUMBLE, TUMBLE) if tumbles else rng.normal(0, TILT)
        actor = _Actor(kind, 0.5, 0.5, height, float(angle), bool(rng.uniform() < 0.5), int(rng.integers(2**31)))
        placed.append(_find_place(rng, actor, placed))
    return sorted(placed, key=lambda actor: actor.foot)


def _find_place(rng: np.random.Generator, actor: _Actor, others: list[_Actor]) -> _Actor:
    """`actor` at the first random place with room enough beside `others`, else at the roomiest one tried."""
    best, best_room = actor, -1.0
    margin = MARGIN * actor.height
    top = min(HEADROOM * actor.height, 1 - margin)
    for x, y in rng.uniform((margin, top), (1 - margin, 1 - margin), (PLACE_TRIES, 2)):
        room = min((_room(other, x, y, actor.height) for other in others), default=1.0)
        if room > best_room:
            best, best_room = replace(actor, x=float(x), y=float(y)), room
        if room >= SPACING:
            break
    return best


def _room(other: _Actor, x: float, y: float, height: float) -> float:
    return float(np.hypot(other.x - x, other.y - y)) / (0.5 * (other.height + height))


def _draw_actors(canvas: Canvas, actors: list[_Actor]) -> bool:
    """Draw all actors; True when each creature can be recognised: it and its part are hidden by others only a little, and
    no part is cut off by the border.

    Actor n owns canvas numbers 2n + 1 (body) and 2n + 2 (the part that tells its class)."""
    required: dict[int, float] = {}
    for number, actor in enumerate(actors):
        body, part = 2 * number + 1, 2 * number + 2
        _draw_actor(canvas, actor, body, part)
        if actor.kind < 0:
            continue
        if _touches_border(canvas, part):
            return False
        required[body] = VISIBLE_BODY * np.count_nonzero(canvas.owner == body)
        required[part] = VISIBLE_PART * np.count_nonzero(canvas.owner == part)
    return all(area > 0 and np.count_nonzero(canvas.owner == owner) >= area for owner, area in required.items())


def _touches_border(canvas: Canvas, owner: int) -> bool:
    edges = canvas.owner[[0, -1], :], canvas.owner[:, [0, -1]]
    return any((edge == owner).any() for edge in edges)


def _draw_actor(canvas: Canvas, actor: _Actor, body: int, part: int) -> None:
    rng = np.random.default_rng(actor.seed)
    centre = (actor.x * canvas.side, actor.y * canvas.side)
    frame = Frame(centre, actor.height * canvas.side, actor.angle, actor.mirrored)
    _draw_shadow(canvas, actor)
    if actor.kind >= 0:
        pens = canvas.pen(frame, body), canvas.pen(frame, part)
        draw_creature(*pens, CREATURES[actor.kind], random_look(rng), rng)
    else:
        draw_thing(canvas.pen(frame, body), rng)


def _draw_shadow(canvas: Canvas, actor: _Actor) -> None:
    """A darkened patch of ground under an actor; it belongs to nobody and spares whoever is drawn already."""
    for grow in (1.0, 0.75):
        patch = ellipse(actor.x + 0.03, actor.foot + 0.01, 0.42 * grow * actor.height, 0.10 * grow * actor.height)
        canvas.pen().relight(patch, 0.80)


def _finish(canvas: Canvas, actors: list[_Actor], rng: np.random.Generator) -> Scene:
    shares = [canvas.coverage(2 * n + 1) + canvas.coverage(2 * n + 2) for n in range(len(actors))]
    label = _label_map(shares, actors)
    creatures = [share for share, actor in zip(shares, actors, strict=True) if actor.kind >= 0]
    things = [share for share, actor in zip(shares, actors, strict=True) if actor.kind < 0]
    classes = tuple(sorted({actor.kind for actor in actors if actor.kind >= 0}))
    return Scene(canvas.image(), label, imperfect_saliency(creatures, things, rng), classes)


def _label_map(shares: list[FloatArray], actors: list[_Actor]) -> NDArray[np.uint8]:
    """Every pixel gets the object, or the background, that fills most of it."""
    values = np.asarray([0] + [label_value(actor.kind) if actor.kind >= 0 else 0 for actor in actors], np.uint8)
    empty = 1 - np.sum(shares, axis=0)
    winner = np.argmax(np.stack([empty, *shares]), axis=0)
    return np.asarray(values[winner], np.uint8)

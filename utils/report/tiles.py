"""The small pictures of a report's gallery, written once: a file's name holds a digest of what it was made from."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from utils.data.classes import BACKGROUND, IGNORE, label_value
from utils.data.images import jpeg_bytes, read_image, read_saliency
from utils.drawing.overlays import Picture, cam_overlay, contact_sheet, heat_map, label_overlay
from utils.evaluation.plots import draw_class_iou
from utils.files import atomic_path
from utils.report.images import ImageTask, LabelMap, Pictures, find_images, pictures_of, score_images, spread
from utils.report.run import Run, Stage
from utils.runtime.parallel import map_progress

# Pixels of the longer side, and JPEG quality: sharp enough enlarged, some 15 kB each.
LONGEST, QUALITY = 400, 80
# Raise when the drawing changes, so that older files are made anew.
DRAWING = 1
SUFFIX = ".jpg"
# Colours of the error map; told apart by people of any colour vision, in brightness too.
MISSED, INVENTED, CONFUSED = (38, 110, 255), (255, 176, 0), (220, 38, 127)
ERROR_OPACITY, RIGHT_DIMMED, UNKNOWN_GREY = 0.8, 0.55, 205


@dataclass(frozen=True)
class Tile:
    """One picture: its kind ("image", "cam", "labels", "drawn", "truth", "error"), caption, and file relative to the page."""

    kind: str
    caption: str
    file: str
    width: int
    height: int
    stage: str = ""

    @property
    def url(self) -> str:
        return quote(self.file)


@dataclass(frozen=True)
class _Plan:
    kind: str
    caption: str
    sources: tuple[Path, ...]
    draw: Callable[[], Picture]
    stage: str = ""
    detail: str = ""


@dataclass(frozen=True)
class TileWriter:
    """Writes the tiles of images into `<page folder>/<name>`.

    Attributes:
        pictures: where everything is.
        titles: stage key -> title, for captions.
        page: folder of the page.
        name: folder of the tiles below it.
        kinds: kinds to write; empty is all.
    """

    pictures: Pictures
    titles: dict[str, str]
    page: Path
    name: str
    kinds: tuple[str, ...] = ()

    def tiles(self, task: ImageTask) -> list[Tile]:
        """Write what is missing of one image's tiles; return all, in order. Raises UserError naming a bad file."""
        return [self._tile(task, plan) for plan in self._plans(task) if not self.kinds or plan.kind in self.kinds]

    def drawings(self, task: ImageTask) -> list[tuple[str, Picture]]:
        """Return (caption, picture) of one image's tiles without writing anything."""
        return [(plan.caption, plan.draw()) for plan in self._plans(task) if not self.kinds or plan.kind in self.kinds]

    def _tile(self, task: ImageTask, plan: _Plan) -> Tile:
        marks = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in plan.sources]
        text = repr((DRAWING, LONGEST, QUALITY, plan.kind, plan.detail, marks))
        digest = blake2b(text.encode(), digest_size=5).hexdigest()
        stem = "-".join(part for part in (task.image_id, plan.kind, plan.stage) if part)
        file = f"{self.name}/{stem}.{digest}{SUFFIX}"
        path = self.page / file
        if not path.exists():
            _write(path, plan.draw())
        with Image.open(path) as image:
            width, height = image.size
        return Tile(plan.kind, plan.caption, file, width, height, plan.stage)

    def _plans(self, task: ImageTask) -> Iterator[_Plan]:
        pictures, name = self.pictures, task.image_id
        photo, truth = pictures.image_path(name), pictures.data.truth(name)
        image = functools.partial(_photo, photo)
        yield _Plan("image", "image", (photo,), image)
        saliency = pictures.data.saliency(name) if pictures.data.saliency_dir else None
        if saliency is not None and saliency.exists():
            yield _Plan("saliency", "saliency", (saliency,), functools.partial(_saliency, saliency))
        yield from self._cam_plans(task, photo, image)
        sources = {key: pictures.map_files(key, task) for key in task.stages}
        labelled = [key for key in task.stages if not pictures.shows(key)]
        for key in task.stages:
            if key not in labelled:
                yield from self._drawn_plans(key, sources[key])
                continue
            draw = functools.partial(self._labels, image, functools.partial(pictures.label_map, key, task))
            yield _Plan("labels", self.titles[key], (photo, *sources[key]), draw, key, self._rule(key))
        if truth.exists():
            draw = functools.partial(self._labels, image, functools.partial(self._truth, name))
            yield _Plan("truth", "ground truth", (photo, truth), draw)
            for key in labelled[-1:]:
                draw = functools.partial(self._errors, image, task, key)
                caption = f"errors of {self.titles[key]}"
                yield _Plan("error", caption, (photo, truth, *sources[key]), draw, key, self._rule(key))

    def _drawn_plans(self, key: str, files: Sequence[Path]) -> Iterator[_Plan]:
        for path in files:
            k = self.pictures.class_shown(path)
            caption = f"{self.titles[key]}, {self.pictures.names[label_value(k)]}"
            yield _Plan("drawn", caption, (path,), functools.partial(_photo, path), f"{key}-{k}")

    def _cam_plans(self, task: ImageTask, photo: Path, image: Callable[[], Picture]) -> Iterator[_Plan]:
        key = next((k for k in task.stages if self.pictures.stages[k].card.threshold is not None), None)
        if key is None:
            return
        for number, (k, path) in enumerate(zip(task.classes, self.pictures.map_files(key, task), strict=True)):
            caption = f"CAM of {self.pictures.names[label_value(k)]}"
            draw = functools.partial(self._cam, image, key, task, number)
            yield _Plan("cam", caption, (photo, path), draw, f"{key}-{k}", self._rule(key))

    def _cam(self, image: Callable[[], Picture], key: str, task: ImageTask, number: int) -> Picture:
        return cam_overlay(image(), self.pictures.cams(key, task)[number], outline=self.pictures.stages[key].card.threshold)

    def _rule(self, key: str) -> str:
        return repr(self.pictures.stages[key].card.threshold)

    def _labels(self, image: Callable[[], Picture], labels: Callable[[], LabelMap]) -> Picture:
        picture = image()
        return label_overlay(picture, _at_size_of(picture, labels()), self.pictures.names[1:], legend=False)

    def _errors(self, image: Callable[[], Picture], task: ImageTask, key: str) -> Picture:
        picture, labels = image(), self.pictures.label_map(key, task)
        return error_map(picture, _at_size_of(picture, self._truth(task.image_id)), _at_size_of(picture, labels))

    def _truth(self, image_id: str) -> LabelMap:
        truth = self.pictures.truth(image_id)
        if truth is None:
            raise RuntimeError(f"the ground truth of {image_id} was there a moment ago")
        return truth


def write_tiles(writer: TileWriter, tasks: Sequence[ImageTask], *, workers: int) -> list[list[Tile]]:
    """Write the tiles of many images, and remove those no longer shown. Raises UserError as `TileWriter.tiles`."""
    (writer.page / writer.name).mkdir(parents=True, exist_ok=True)
    rows = list(map_progress(writer.tiles, tasks, workers=workers, what="thumbnails"))
    used = {tile.file.partition("/")[2] for row in rows for tile in row}
    for path in (writer.page / writer.name).glob(f"*{SUFFIX}"):
        if path.name not in used:
            path.unlink(missing_ok=True)
    return rows


def error_map(image: Picture, truth: LabelMap, labels: LabelMap) -> Picture:
    """Colour what is wrong: missed objects blue, invented ones orange, confused classes magenta; what is right stays grey.

    Args:
        image: (H, W, 3).
        truth: (H, W) label map; ignored pixels (255) become plain light grey.
        labels: (H, W) label map of the stage; its ignored pixels as well.
    """
    grey = np.repeat(image.mean(axis=2, keepdims=True) * RIGHT_DIMMED, 3, axis=2)
    wrong = truth != labels
    for colour, where in (
        (MISSED, wrong & (labels == BACKGROUND)),
        (INVENTED, wrong & (truth == BACKGROUND)),
        (CONFUSED, wrong & (truth != BACKGROUND) & (labels != BACKGROUND)),
    ):
        grey[where] = (1 - ERROR_OPACITY) * grey[where] + ERROR_OPACITY * np.array(colour)
    grey[(truth == IGNORE) | (labels == IGNORE)] = UNKNOWN_GREY
    return np.rint(grey).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _photo(path: Path) -> Picture:
    """Return a photo at the size of tiles, to be left as it is: the same array goes to every tile of the image."""
    return np.array(_fitted(read_image(path)))


def _saliency(path: Path) -> Picture:
    return heat_map(np.array(_fitted(read_saliency(path, None))), colormap="gray")


def _write(path: Path, picture: Picture) -> None:
    with atomic_path(path, sync=False) as temporary:
        temporary.write_bytes(jpeg_bytes(Image.fromarray(picture), quality=QUALITY))


def _fitted(image: Image.Image) -> Image.Image:
    image.thumbnail((LONGEST, LONGEST))
    return image


def _at_size_of(picture: Picture, labels: LabelMap) -> LabelMap:
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


# Rows of the sheet, their height in pixels, and how many images they are chosen from.
IMAGES, CELL, SAMPLE, MOST_CLASSES = 5, 96, 40, 2
DPI, WIDTH, HEIGHT = 100, 8.2, 2.9
# A palette of so many colours keeps a README light.
COLOURS = 128


def write_pictures(run: Run, folder: Path) -> list[Path]:
    """Write `scores.png` and `images.png` of a run into a folder; a picture nothing is known for is left out."""
    written = []
    if run.rated:
        written.append(_save(folder / "scores.png", _bars(run.rated, run.names)))
    sheet = _sheet(run)
    if sheet is not None:
        written.append(_save(folder / "images.png", sheet))
    return written


def _bars(stages: Sequence[Stage], names: Sequence[str]) -> Picture:
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    series = {
        f"{stage.title}: {100 * (stage.card.mean_iou or 0):.1f} % mIoU": [
            stage.card.mean_iou, *(stage.iou.get(name) for name in names)
        ]
        for stage in stages
    }  # fmt: skip
    draw_class_iou(axes, ["mean", *names], series)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=min(3, len(stages)), frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0, 1, 0.99 - 0.075 * -(-len(stages) // 3)))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _sheet(run: Run) -> Picture | None:
    """Return a sheet of a few typical images of each split, the best first."""
    if (pictures := pictures_of(run)) is None:
        return None
    tasks = find_images(pictures)
    writer = TileWriter(pictures, {key: stage.short for key, stage in pictures.stages.items()}, Path(), "")
    splits = list(dict.fromkeys(task.split for task in tasks))
    rows = [
        [("errors" if caption.startswith("errors of ") else caption, picture) for caption, picture in writer.drawings(task)]
        for position, split in enumerate(splits)
        for task in _typical(
            pictures, [t for t in tasks if t.split == split], IMAGES // len(splits) + (position < IMAGES % len(splits))
        )
    ]
    return contact_sheet(rows, cell_height=CELL) if rows else None


def _typical(pictures: Pictures, tasks: Sequence[ImageTask], count: int) -> list[ImageTask]:
    """Return `count` images from the lower quartile to the best of a sample, those with few classes where there are any."""
    few = [task for task in tasks if len(task.classes) <= MOST_CLASSES] or list(tasks)
    scored = score_images(pictures, spread(few, SAMPLE), workers=1)
    ranked = sorted(scored, key=lambda item: item.last_mean() or 0.0, reverse=True)
    chosen = np.linspace(0, 3 * (len(ranked) - 1) // 4, min(count, len(ranked))).astype(int)
    return [ranked[int(index)].task for index in chosen]


def _save(path: Path, picture: Picture) -> Path:
    image = Image.fromarray(picture).quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
    return path

"""Draw class activation maps over their images: a picture per class, one of all classes, and an overview sheet.

    python -m scripts.visualize_cams --config configs/l2g_voc.yaml name=exp_voc [key=value ...]
    python -m scripts.visualize_cams --config configs/l2g_voc.yaml view.cam_dir=their/cams view.limit=50 view.outline=0.25
    python -m scripts.visualize_cams --config configs/l2g_voc.yaml view.style=published      # bare jet maps

Reads <view.cam_dir>/<id>_<class>.png (of any network: only the names matter) and the images. Writes
<view.out_dir>/<id>_<class>.png (heat and colour bar), <id>.png (each pixel in the colour of its highest class, with names),
and overview.png. With view.style=published only <id>_<class>.png.
"""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from configs.schema import Config
from scripts.build import parse_args
from utils.cams.store import LabelledId, cam_path, classes_on_disk, read_cams
from utils.data.classes import resolve_class_names
from utils.data.folder import DataFolder
from utils.data.images import read_image, write_png
from utils.data.lists import read_id_list
from utils.drawing.cam_pictures import class_picture, combined_overlay, combined_picture, published_picture
from utils.drawing.overlays import Picture, cam_overlay, contact_sheet
from utils.errors import UserError, run_program
from utils.files import remove_leftovers
from utils.runtime.parallel import map_progress

OVERVIEW = "overview.png"


def main(argv: list[str]) -> None:
    """Parse the command line and draw."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> list[str]:
    """Draw as configured; return the ids drawn. Raises UserError for wrong input, or when there is nothing to draw."""
    view, out = cfg.view, Path(cfg.view.out_dir)
    _check(cfg)
    names = resolve_class_names(cfg.data.class_names, cfg.data.num_classes)
    tasks = _tasks(cfg)
    _data(cfg).check_images(image_id for image_id, _ in tasks)
    remove_leftovers(out)
    written = sum(map_progress(partial(_draw, cfg, names), tasks, workers=view.workers, what="pictures"))
    if view.style == "overlay" and view.overview:
        write_png(out / OVERVIEW, _overview(cfg, names, _spread(tasks, view.overview)))
    print(f"{written} pictures of {len(tasks)} images in {out}")
    return [image_id for image_id, _ in tasks]


def _check(cfg: Config) -> None:
    if cfg.view.colormap not in colormaps:
        raise UserError(f"view.colormap is '{cfg.view.colormap}', which matplotlib does not have; try turbo, viridis or jet")
    if Path(cfg.view.out_dir).resolve() == Path(cfg.view.cam_dir).resolve():
        raise UserError(f"view.out_dir is view.cam_dir ({cfg.view.cam_dir}), whose maps would be lost; set another")


def _tasks(cfg: Config) -> list[LabelledId]:
    """Return the images to draw with the classes there are maps of."""
    folder = Path(cfg.view.cam_dir)
    found = classes_on_disk(folder, cfg.data.num_classes)
    if not found:
        raise UserError(f"{folder} holds no <id>_<class>.png; run scripts.make_cams first or set view.cam_dir")
    if not cfg.view.ids:
        return _spread(list(found.items()), cfg.view.limit)
    ids = read_id_list(Path(cfg.view.ids))
    missing = [image_id for image_id in ids if image_id not in found]
    if missing:
        raise UserError(
            f"{folder} holds no map of '{missing[0]}' of {cfg.view.ids} ({len(missing)} such images); run scripts.make_cams on "
            "this list or shorten it"
        )
    return _spread([(image_id, found[image_id]) for image_id in ids], cfg.view.limit)


def _data(cfg: Config) -> DataFolder:
    return DataFolder.of(cfg.data, cfg.view.ids or cfg.data.infer_list)


def _spread(tasks: list[LabelledId], most: int) -> list[LabelledId]:
    """Return at most `most` (0: all) of the tasks, evenly spread."""
    return tasks if most in (0, len(tasks)) or most > len(tasks) else [tasks[i * len(tasks) // most] for i in range(most)]


def _draw(cfg: Config, names: list[str], task: LabelledId) -> int:
    """Write the pictures of one image; return how many."""
    view, (image_id, classes) = cfg.view, task
    image, cams = _read(cfg, task)
    out = Path(view.out_dir)
    if view.style == "published":
        for k in classes:
            write_png(cam_path(out, image_id, k), published_picture(cams[k]))
        return len(classes)
    outline = view.outline or None
    for k in classes:
        picture = class_picture(image, cams[k], colormap=view.colormap, opacity=view.opacity, outline=outline)
        write_png(cam_path(out, image_id, k), picture)
    write_png(out / f"{image_id}.png", combined_picture(image, cams, names, opacity=view.opacity))
    return len(classes) + 1


def _overview(cfg: Config, names: list[str], tasks: list[LabelledId]) -> Picture:
    """Return a row per image: it, all classes in one, then each class."""
    view, rows = cfg.view, []
    for task in tasks:
        image, cams = _read(cfg, task)
        row = [(task[0], image), ("all classes", combined_overlay(image, cams, opacity=view.opacity))]
        for k, cam in cams.items():
            overlay = cam_overlay(image, cam, opacity=view.opacity, colormap=view.colormap, outline=view.outline or None)
            row.append((names[k], overlay))
        rows.append(row)
    return contact_sheet(rows)


def _read(cfg: Config, task: LabelledId) -> tuple[Picture, dict[int, NDArray[np.uint8]]]:
    image_id, classes = task
    image = read_image(_data(cfg).image(image_id))
    folder = Path(cfg.view.cam_dir)
    return np.array(image), dict(zip(classes, read_cams(folder, image_id, classes, image.size), strict=True))


if __name__ == "__main__":
    run_program(main)

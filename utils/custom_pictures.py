"""Bring a user's own pictures into the layout: ids from file names, JPEGs linked, everything else converted."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from utils.errors import UserError
from utils.files import atomic_path
from utils.images import image_size, read_image, read_label_map, read_saliency
from utils.parallel import map_progress
from utils.place_files import place_files, up_to_date

JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_UPRIGHT = (None, 1)


def picture_ids(names: Iterable[str]) -> dict[str, str]:
    """Return path -> id: folders and odd characters become '_'.

    Raises:
        UserError: when two pictures would get the same id.
    """
    ids: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in names:
        image_id = re.sub(r"[^\w.-]+|\.\.+", "_", str(PurePosixPath(name).with_suffix("")).replace("/", "_"))
        if image_id in owner:
            raise UserError(f"'{owner[image_id]}' and '{name}' would both get the id '{image_id}'; rename one of them")
        ids[name], owner[image_id] = image_id, name
    return ids


def bring_pictures(folder: Path, ids: dict[str, str], out: Path, how: str, *, workers: int) -> int:
    """Place upright JPEGs as links or copies and convert all other pictures (quality 95); returns how many were converted.

    Saliency maps and CAMs ignore rotation marks (EXIF), so that rotated photos are written upright.

    Raises:
        UserError: naming a picture that is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / name, out / f"{image_id}.jpg") for name, image_id in ids.items()]
    converted = list(map_progress(convert_picture, jobs, workers=workers, what="pictures"))
    place_files([job for job, done in zip(jobs, converted, strict=True) if not done], how, workers=workers, what="JPEGs")
    return sum(converted)


def convert_picture(job: tuple[Path, Path]) -> bool:
    """Write `job[1]` from the picture `job[0]` when that is no upright RGB or grey JPEG; returns whether it is converted."""
    source, target = job
    image = read_image(source)
    if _is_upright_jpeg(source):
        return False
    if not up_to_date(target, source):
        with Image.open(source) as opened:
            turned = ImageOps.exif_transpose(opened)
            image = turned.convert("RGB") if turned is not None else image
        with atomic_path(target, sync=False) as temporary:
            image.save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return True


def _is_upright_jpeg(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(_ORIENTATION) in _UPRIGHT


def bring_maps(
    folder: Path, ids: dict[str, str], images: Path, out: Path, how: str, num_classes: int | None, *, workers: int
) -> list[str]:
    """Check and place the masks (`num_classes` given) or saliency maps (None) that belong to pictures.

    A picture's map is `<folder>/<path of the picture>.png`, or `<folder>/<its id>.png`.

    Returns:
        ids that have one.

    Raises:
        UserError: for a map of another size than its picture, with values out of range, or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist; give the folder of masks or saliency maps")
    found = {}
    for name, image_id in ids.items():
        candidates = (folder / PurePosixPath(name).with_suffix(".png"), folder / f"{image_id}.png")
        path = next((path for path in candidates if path.is_file()), None)
        if path is not None:
            found[image_id] = path
    jobs = [(path, images / f"{image_id}.jpg") for image_id, path in found.items()]
    for _ in map_progress(partial(check_map, num_classes), jobs, workers=workers, what=f"maps of {folder.name}"):
        pass
    pairs = [(path, out / f"{image_id}.png") for image_id, path in found.items()]
    place_files(pairs, how, workers=workers, what=out.name)
    return list(found)


def check_map(num_classes: int | None, job: tuple[Path, Path]) -> None:
    """Raise UserError unless the map `job[0]` is right and of the picture `job[1]`'s size."""
    path, picture = job
    if num_classes is None:
        read_saliency(path, image_size(picture))
    else:
        read_label_map(path, num_classes, image_size(picture))

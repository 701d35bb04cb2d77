"""Image labels of a user's own pictures: from CSV, JSON, or one folder a class."""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps

from utils.data.images import image_size, jpeg_bytes, read_image, read_label_map, read_saliency
from utils.errors import UserError
from utils.files import atomic_path, only_file, parse_json, remove_leftovers
from utils.prepare.layout import place_files, up_to_date
from utils.runtime.parallel import map_progress

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
CLASS_SEPARATOR = ";"
_HEADERS = ("file", "filename", "image", "path", "name")
_FILE_KEYS, _CLASS_KEYS = ("file", "filename", "image"), ("classes", "labels", "class", "label")

# Path relative to the picture folder -> class names, without repetition.
NamedLabels = dict[str, tuple[str, ...]]


def list_images(folder: Path) -> list[str]:
    """Return the pictures below `folder`, hidden folders left out, as sorted relative paths. Raises UserError for none."""
    if not folder.is_dir():
        raise UserError(f"picture folder {folder} does not exist; give the folder of your pictures")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    names = sorted(p.relative_to(folder).as_posix() for p in found if not any(part.startswith(".") for part in p.parts))
    if not names:
        raise UserError(f"{folder} holds no pictures ({', '.join(IMAGE_ENDINGS)})")
    return names


def read_named_labels(path: Path | None, images: Iterable[str]) -> NamedLabels:
    """Return the class names of every picture; those the file does not name have none.

    Args:
        path: CSV ('file,class;class' lines, a header line is skipped), JSON ({"file": ["class", ...]} or a list of
            {"file": ..., "classes": [...]}), or None: the folder a picture lies in is its class.
        images: paths relative to the picture folder.

    Raises:
        UserError: for an unreadable file, a picture or class given twice, a picture that is not there or outside class folders.
    """
    names = list(images)
    if path is None:
        return _by_folder(names)
    pairs = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    by_name = _lookup(names)
    labels: NamedLabels = {}
    for place, file, classes in pairs:
        name = by_name.get(file) or by_name.get(_stem(file))
        if name is None:
            raise UserError(f"{place}: picture '{file}' is not in the picture folder; correct the name or remove the entry")
        if name in labels:
            raise UserError(f"{place}: picture '{file}' is there twice; put all its classes on one line, class;class")
        given = [c.strip() for c in classes if c.strip()]
        if twice := {c for c in given if given.count(c) > 1}:
            raise UserError(
                f"{place}: class '{min(twice)}' is there twice; name each class once (columns of 0 and 1 are not understood: "
                "give the names of those that hold 1)"
            )
        labels[name] = tuple(given)
    return {name: labels.get(name, ()) for name in names}


def resolve_classes(labels: Mapping[str, tuple[str, ...]], given: list[str] | None) -> list[str]:
    """Return the class names by index: the given ones, or all that occur, sorted. Raises UserError for a label beyond these."""
    used = sorted({name for classes in labels.values() for name in classes})
    if given is None:
        if not used:
            raise UserError("no picture has a class; give labels in the CSV or JSON file, or one folder a class")
        return used
    unknown = [name for name in used if name not in given]
    if unknown:
        picture = next(file for file, classes in labels.items() if unknown[0] in classes)
        raise UserError(
            f"'{picture}' has the class '{unknown[0]}', which is not among the given {len(given)}; add or correct it"
        )
    return list(given)


def _by_folder(names: list[str]) -> NamedLabels:
    loose = [name for name in names if "/" not in name]
    if loose:
        raise UserError(f"'{loose[0]}' lies in no class folder; give --labels, or move it to <pictures>/<class>/")
    return {name: (name.partition("/")[0],) for name in names}


def _lookup(names: list[str]) -> dict[str, str]:
    """Return every way a file may call a picture -> its path; a bare stem only where it is the only one."""
    table = {Path(name).stem: name for name in names}
    stems = [Path(name).stem for name in names]
    if len(table) < len(stems):
        counts: dict[str, int] = {}
        for stem in stems:
            counts[stem] = counts.get(stem, 0) + 1
        table = {stem: name for stem, name in table.items() if counts[stem] == 1}
    return {**table, **{name: name for name in names}}


def _stem(file: str) -> str:
    """Return a picture's name without its ending; a path stays whole, or it could fit a picture of another folder."""
    path = Path(file)
    return path.stem if path.suffix.lower() in IMAGE_ENDINGS and path.name == file else file


def _read_csv(path: Path) -> list[tuple[str, str, list[str]]]:
    try:
        text = only_file(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"labels {path} cannot be read ({error}); give a UTF-8 CSV or JSON file") from error
    if "\0" in text:
        raise UserError(f"labels {path} holds NUL bytes, which are no text; give a UTF-8 CSV or JSON file")
    rows = []
    try:
        read = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise UserError(f"labels {path} cannot be read ({error}); expected lines of 'file,class;class'") from error
    for number, row in enumerate(read, start=1):
        fields = [field.strip() for field in row]
        if not any(fields) or (number == 1 and fields[0].lower() in _HEADERS):
            continue
        # 'file,a;b' and, as some tools write it, 'file,a,b'.
        rows.append((f"{path} line {number}", fields[0], [c for field in fields[1:] for c in field.split(CLASS_SEPARATOR)]))
    return rows


def _read_json(path: Path) -> list[tuple[str, str, list[str]]]:
    try:
        content = parse_json(only_file(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"labels {path} cannot be read ({error}); give a UTF-8 CSV or JSON file") from error
    if isinstance(content, dict):
        return [(str(path), str(file), _names(classes, path)) for file, classes in content.items()]
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f'{path} holds neither {{"file": ["class"]}} nor a list of {{"file": ..., "classes": [...]}}')
    return [
        (f"{path} entry {n}", str(_first(entry, _FILE_KEYS, path)), _names(_first(entry, _CLASS_KEYS, path), path))
        for n, entry in enumerate(content, start=1)
    ]


def _first(entry: dict[str, Any], keys: tuple[str, ...], path: Path) -> Any:
    for key in keys:
        if key in entry:
            return entry[key]
    raise UserError(f"{path}: an entry has none of the keys {', '.join(keys)}: {json.dumps(entry)[:80]}")


def _names(classes: Any, path: Path) -> list[str]:
    if isinstance(classes, str):
        return classes.split(CLASS_SEPARATOR)
    if isinstance(classes, list) and all(isinstance(c, str | int) for c in classes):
        return [str(c) for c in classes]
    raise UserError(f"{path}: classes are {json.dumps(classes)[:80]}, expected a list of names")


JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_UPRIGHT = (None, 1)


def picture_ids(names: Iterable[str]) -> dict[str, str]:
    """Return path -> id: folders and odd characters become '_'. Raises UserError when two pictures would get the same id."""
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
    remove_leftovers(out)
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
            temporary.write_bytes(jpeg_bytes(image, quality=JPEG_QUALITY, subsampling=0))
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

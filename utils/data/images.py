"""Read and write the images of a dataset; a wrong file is an error that names it and says what is wrong."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from utils.data.classes import IGNORE
from utils.errors import UserError, remedy
from utils.files import atomic_path, only_file

# What PIL raises for damaged files, depending on format and on where the damage is.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# The largest of the values an 8-bit map can have, and how many there are.
MAX_GREY, GREY_VALUES = 255, 256
_CAM_AGAIN = (
    "run scripts.make_cams (scripts.refine_cams) again: it redoes what cannot be read, and all with cam.overwrite=true "
    "(refine.overwrite=true)"
)
_PHOTO_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "1")
# Against PIL's default (6): encoding takes 0.4 of the time; CAM files are 3 % larger, label maps 70 % (7 kB).
_PNG_EFFORT = 1

Size = tuple[int, int]


def read_image(path: Path) -> Image.Image:
    """Return a photo as PIL RGB. Rotation marks (EXIF) are ignored, as saliency and labels were made without them.

    Raises:
        UserError: when the file is missing, damaged or not an 8-bit image.
    """
    image = _load(path)
    if image.mode not in _PHOTO_MODES:
        raise UserError(f"image {path} has mode {image.mode}, expected 8 bits a channel; convert it to RGB JPEG")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_saliency(path: Path, size: Size | None) -> Image.Image:
    """Return a saliency map as PIL L, 0 (background) to 255 (salient).

    Args:
        path: 8-bit grey PNG.
        size: (W, H) it must have, the image's; None does not check.

    Raises:
        UserError: when the file is missing, damaged, not 8-bit grey or of another size.
    """
    return _load_grey(path, size, "saliency map")


def read_cutout(path: Path) -> Image.Image:
    """Return a picture with alpha as PIL RGBA; what is black in one without alpha is around the object.

    Raises:
        UserError: when the file is missing or damaged, or neither RGBA nor RGB.
    """
    image = _load(path)
    if image.mode == "RGB":
        image.putalpha(Image.fromarray(np.asarray(image).any(axis=2).astype(np.uint8) * np.uint8(MAX_GREY)))
    if image.mode != "RGBA":
        raise UserError(f"cut-out {path} has mode {image.mode}, expected an RGBA PNG, or RGB on black; make the bank anew")
    return image


def read_cam(path: Path, size: Size | None = None) -> NDArray[np.uint8]:
    """Return a CAM (H, W) uint8, 255 = score 1. Raises UserError for a file that is no grey PNG of `size` (W, H)."""
    return np.asarray(_load_grey(path, size, "CAM", damaged=_CAM_AGAIN, misfit=_CAM_AGAIN))


def is_whole_png(path: Path) -> bool:
    """Return whether a PNG file is there, complete and of the content its sums tell; it is not decoded."""
    try:
        with Image.open(only_file(path)) as image:
            image.verify()
    except _DAMAGE:
        return False
    return True


def read_label_map(
    path: Path, num_classes: int, size: Size | None = None, *, key: str = "data.num_classes"
) -> NDArray[np.uint8]:
    """Return a label map (H, W) uint8: 0 background, 1..num_classes, 255 ignored. Palette and grey PNGs are accepted.

    Raises:
        UserError: when the file is missing, damaged, coloured, not of `size` (W, H), or holds another value; `key` says which
            setting tells the number of classes.
    """
    image = _load(path)
    if image.mode not in ("P", "L"):
        raise UserError(f"label map {path} has mode {image.mode}, expected a palette or 8-bit grey PNG of label values")
    _check_size(path, image.size, size, "label map")
    counts = image.histogram()
    for value in range(num_classes + 1, IGNORE):
        if counts[value]:
            raise UserError(
                f"label map {path} holds the value {value}; expected 0 to {num_classes} or {IGNORE} "
                f"({num_classes} classes, from {key})"
            )
    return np.asarray(image)


def image_size(path: Path) -> Size:
    """Return (W, H) from the file's header, without decoding it. Raises UserError when the file is missing or no image."""
    try:
        with Image.open(only_file(path)) as image:
            return image.size
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def jpeg_bytes(image: Image.Image, **options: int) -> bytes:
    """Return a JPEG's content: PIL, writing to a file itself, does not notice that a full disk takes only a part."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write_png(path: Path, array: NDArray[np.uint8], palette: bytes | None = None) -> None:
    """Write an 8-bit PNG that appears whole or not at all.

    Args:
        path: file to write; its folder is created.
        array: (H, W) grey or palette indices, (H, W, 3) RGB or (H, W, 4) RGBA; uint8.
        palette: 768 bytes of RGB for a palette PNG.

    Raises:
        UserError: when the file cannot be written.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"expected uint8, got {array.dtype}")
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    # Not forced to the disk one by one: there are tens of thousands, and each can be made again.
    with atomic_path(path, sync=False) as temporary:
        image.save(temporary, "PNG", compress_level=_PNG_EFFORT)


def _load(path: Path, damaged: str = "replace it") -> Image.Image:
    try:
        with only_file(path).open("rb") as file:
            image = Image.open(file)
            image.load()
            if image.format == "PNG":  # of its last rows PIL's decoder looks at no sum
                file.seek(0)
                Image.open(file).verify()
            return image
    except _DAMAGE as error:
        raise _unreadable(path, error, damaged) from error


def _load_grey(
    path: Path, size: Size | None, what: str, *, damaged: str = "replace it", misfit: str = "make it anew"
) -> Image.Image:
    image = _load(path, damaged)
    if image.mode not in ("L", "1"):
        raise UserError(f"{what} {path} has mode {image.mode}, expected an 8-bit grey PNG; convert it to grey")
    _check_size(path, image.size, size, what, misfit)
    return image if image.mode == "L" else image.convert("L")


def _check_size(path: Path, found: Size, expected: Size | None, what: str, misfit: str = "make it anew") -> None:
    if expected is not None and found != expected:
        raise UserError(
            f"{what} {path} is {found[0]}x{found[1]} pixels, expected {expected[0]}x{expected[1]} like the image; {misfit}"
        )


def _unreadable(path: Path, error: BaseException, damaged: str = "replace it") -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist; check the list and the data.*_dir keys")
    if isinstance(error, OSError) and error.strerror:
        return UserError(
            f"{path} cannot be read ({error.strerror}); {remedy(error.errno, 'check what it is, and its permissions')}"
        )
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error).strip() or type(error).__name__
    return UserError(f"{path} is damaged or no image ({reason}); {damaged}")

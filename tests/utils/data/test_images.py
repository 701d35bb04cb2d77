import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.classes import palette
from utils.data.images import image_size, is_whole_png, read_cam, read_image, read_label_map, read_saliency, write_png
from utils.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 50), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_png_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a_0.png"
    write_png(path, GREY)
    np.testing.assert_array_equal(read_cam(path, (50, 40)), GREY)
    assert read_saliency(path, None).size == image_size(path) == (50, 40)
    write_png(path, COLOUR)
    np.testing.assert_array_equal(np.asarray(read_image(path)), COLOUR)
    assert [p.name for p in path.parent.iterdir()] == ["a_0.png"]
    with pytest.raises(ValueError, match="uint8"):
        write_png(path, GREY.astype(np.float32))


def test_palette_label_maps_keep_values(tmp_path: Path) -> None:
    labels = (GREY % 4).astype(np.uint8)
    labels[0] = 255
    for colours in (None, palette()):
        write_png(tmp_path / "a.png", labels, colours)
        np.testing.assert_array_equal(read_label_map(tmp_path / "a.png", 3, (50, 40)), labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P" and image.getpalette()[3:6] == [128, 0, 0]
    with pytest.raises(UserError, match=r"a.png holds the value 3; expected 0 to 2 or 255"):
        read_label_map(tmp_path / "a.png", 2)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_photos_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    assert read_image(save(path, COLOUR, mode)).mode == "RGB"


@pytest.mark.parametrize(
    "read", [read_image, lambda p: read_saliency(p, None), read_cam, lambda p: read_label_map(p, 255), image_size]
)
def test_missing_and_foreign_files_are_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"none.png does not exist"):
        read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text.png is damaged or no image"):
        read(tmp_path / "text.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder.png cannot be read"):
        read(tmp_path / "folder.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, name: str, share: float) -> None:
    path = save(tmp_path / name, COLOUR)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=name):
        read_image(path)


def test_damaged_bytes_inside_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        read_cam(path)


def test_wrong_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", (GREY > 100).astype(np.uint8))
    for read in (lambda s: read_saliency(path, s), lambda s: read_cam(path, s), lambda s: read_label_map(path, 2, s)):
        with pytest.raises(UserError, match=r"a.png is 50x40 pixels, expected 40x50"):
            read((40, 50))


def test_wrong_modes(tmp_path: Path) -> None:
    colour = save(tmp_path / "rgb.png", COLOUR)
    for read in (lambda: read_saliency(colour, None), lambda: read_cam(colour), lambda: read_label_map(colour, 20)):
        with pytest.raises(UserError, match=r"rgb.png has mode RGB, expected"):
            read()
    deep = save(tmp_path / "deep.png", GREY.astype(np.uint16) * 200)
    with pytest.raises(UserError, match=r"deep.png has mode I;16, expected 8 bits"):
        read_image(deep)


def test_a_pipe_named_like_a_picture_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    os.mkfifo(path)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.jpg cannot be read \(not a file but a folder, pipe or device\)"):
            read(path)


def test_damaged_pngs_are_found_without_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", COLOUR)
    content = path.read_bytes()
    assert is_whole_png(path)
    middle = len(content) // 2
    for damaged in (b"", content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]):
        path.write_bytes(damaged)
        assert not is_whole_png(path)
    assert not is_whole_png(tmp_path / "none.png")


def test_a_damaged_cam_names_the_ways_to_make_it_again(tmp_path: Path) -> None:
    (tmp_path / "a_0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a_0\.png is damaged .*scripts\.make_cams .* again.*cam\.overwrite=true"):
        read_cam(tmp_path / "a_0.png")


def test_a_flipped_bit_of_a_png_is_seen(tmp_path: Path) -> None:
    """PIL's decoder stops at the last pixel and looks at no sum."""
    path, ramp = tmp_path / "a.png", np.tile(np.arange(16, dtype=np.uint8), (12, 1))
    write_png(path, ramp)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            np.testing.assert_array_equal(read_cam(path), ramp)

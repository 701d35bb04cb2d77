import random
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.transforms import (
    area_crop_box,
    crop_with_padding,
    draw_boxes,
    published_crop_box,
    resized_crop,
    saliency_tensor,
    short_side_size,
    to_normalised_tensor,
    true_crop_box,
)

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = np.load(FOLDER / "boxes_resize_crop.npz")
BOXES = {
    "voc_sal_crop": (448, 320, 6, "corners"),
    "coco_sal": (448, 320, 4, "random"),
    "voc_nosal_crop": (448, 320, 4, "corners"),
    "small_64_40_p6": (64, 40, 6, "corners"),
}


@pytest.mark.parametrize("name", BOXES)
def test_published_boxes(name: str) -> None:
    rng = np.random.RandomState(1234)
    for expected in GOLDEN[name]:
        boxes = draw_boxes(rng, *BOXES[name])
        assert boxes.dtype == torch.int64
        np.testing.assert_array_equal(boxes.numpy(), expected[:, 1:])


def test_boxes_as_large_as_the_view() -> None:
    assert draw_boxes(np.random.RandomState(0), 64, 64, 5, "corners").tolist() == [[0, 0, 64, 64]] * 5


def test_published_sizes() -> None:
    for size, expected in zip(GOLDEN["resize_short_in_wh"], GOLDEN["resize_short_out_wh"], strict=True):
        assert short_side_size((int(size[0]), int(size[1])), 512) == tuple(expected)


def test_published_crop_boxes() -> None:
    # Rows of one seed come from one generator, one after the other.
    for seed, rows in groupby(GOLDEN["crop_box_rows"].tolist(), key=lambda row: row[0]):
        rng = random.Random(seed)
        for _, width, height, *_, top, bottom, left, right in rows:
            assert published_crop_box(rng, (width, height), 448) == (left, top, right, bottom)


def test_published_crop_of_a_small_image() -> None:
    """One side is shorter than the crop: the fixture's offsets, and a view of full size all the same."""
    top, left = GOLDEN["crop_box_small"][4], GOLDEN["crop_box_small"][6]
    assert published_crop_box(random.Random(5), (30, 50), 40) == (left, top, left + 40, top + 40)


def test_published_resizing() -> None:
    image, saliency = Image.fromarray(GOLDEN["rs_img"]), Image.fromarray(GOLDEN["rs_sal"])
    bicubic = Image.Resampling.BICUBIC
    portrait = image.transpose(Image.Transpose.TRANSPOSE)
    for source, expected in ((image, "rs_img_out"), (portrait, "rs_img_portrait_out")):
        out = np.asarray(source.resize(short_side_size(source.size, 64), bicubic)).astype(int)
        np.testing.assert_allclose(out, GOLDEN[expected].astype(int), rtol=0, atol=1)
    small = saliency.resize(short_side_size(saliency.size, 64), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(small), GOLDEN["rs_sal_out"])


@pytest.mark.parametrize("size", [(90, 64), (64, 96), (30, 22)])
@pytest.mark.parametrize("box", [(5, 3, 45, 43), (0, 0, 40, 40), (-7, 20, 33, 90), (70, 40, 110, 80)])
def test_cropping_while_resizing_changes_nothing(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = Image.fromarray(GOLDEN["rs_img"])
    for kind in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        part = resized_crop(image, size, box, kind)
        np.testing.assert_array_equal(np.asarray(part), np.asarray(image.resize(size, kind).crop(box)))


def test_true_crop_reaches_every_place() -> None:
    rng = random.Random(0)
    boxes = [true_crop_box(rng, (12, 10), 8) for _ in range(500)]
    assert {box[:2] for box in boxes} == {(x, y) for x in range(5) for y in range(3)}
    assert all(x2 - x1 == y2 - y1 == 8 for x1, y1, x2, y2 in boxes)
    small = {true_crop_box(rng, (6, 8), 8)[:2] for _ in range(100)}
    assert small == {(-2, 0), (-1, 0), (0, 0)}


def test_padding_is_black_on_either_side() -> None:
    image = Image.new("L", (2, 2), 9)
    expected = [[0, 0, 0, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 0]]
    assert np.asarray(crop_with_padding(image, (-1, -1, 3, 3))).tolist() == expected


def test_published_normalisation_and_square_resize() -> None:
    golden = np.load(FOLDER / "color_jitter.npz")
    image = Image.fromarray(golden["src"])
    tensor = to_normalised_tensor(image, (0.471, 0.448, 0.408), (0.234, 0.239, 0.242))
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    np.testing.assert_allclose(tensor.numpy(), golden["coco_normalised"], rtol=1e-5, atol=1e-6)
    out = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
    np.testing.assert_allclose(out, golden["resize_48_out"].astype(int), rtol=0, atol=1)


def test_saliency_norms() -> None:
    faint = Image.fromarray(np.array([[0, 51]], np.uint8))
    assert saliency_tensor(faint, "crop").tolist() == [[[0.0, 1.0]]]
    torch.testing.assert_close(saliency_tensor(faint, "none"), torch.tensor([[[0.0, 0.2]]]))
    assert saliency_tensor(Image.new("L", (3, 2)), "crop").abs().sum() == 0


def test_a_part_of_the_picture_as_published() -> None:
    golden = np.load(FOLDER / "wsfcn" / "train_transform.npz")
    top, left, height, width = golden["crop"].tolist()
    part = Image.fromarray(golden["image"]).crop((left, top, left + width, top + height))
    view = part.resize((65, 65), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.array(view), golden["cropped"])
    flipped = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    np.testing.assert_array_equal(np.array(flipped), golden["flipped"])
    normalised = to_normalised_tensor(flipped, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalised[:, ::4, ::4], golden["norm_sub"], atol=1e-5)


def test_parts_keep_their_share_and_shape() -> None:
    rng = random.Random(0)
    boxes = [area_crop_box(rng, (130, 100), (0.9, 1.0), (0.75, 1.3333)) for _ in range(200)]
    sizes = np.array([(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes])
    assert all(x1 >= 0 and y1 >= 0 and x2 <= 130 and y2 <= 100 for x1, y1, x2, y2 in boxes)
    shares, shapes = sizes.prod(axis=1) / 13000, sizes[:, 0] / sizes[:, 1]
    assert shares.min() > 0.89 and len(set(boxes)) > 100 and shapes.min() > 0.74 and shapes.max() < 1.35
    # None fits a strip: the middle of it, in the nearest shape.
    assert area_crop_box(rng, (400, 100), (0.9, 1.0), (0.75, 1.3333)) == (133, 0, 266, 100)

"""Label resizing and the multi-scale loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from deeplab.losses import multi_scale_loss, resize_labels

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"


@pytest.mark.parametrize("side", [41, 31, 21, 81])
def test_resized_labels_equal_published(side: int) -> None:
    golden = np.load(GOLDEN / "resize_labels.npz")
    labels = torch.from_numpy(golden["labels"])
    np.testing.assert_array_equal(resize_labels(labels, (side, side)), golden[f"out_{side}"])


def test_the_published_transposition_is_mended() -> None:
    golden = np.load(GOLDEN / "resize_labels.npz")
    # The published helper, asked for 5 x 7, made 7 x 5.
    resized = resize_labels(torch.from_numpy(golden["labels_rect"]), (7, 5))
    np.testing.assert_array_equal(resized, golden["out_rect_H5_W7"])


def test_resized_labels_equal_pil_at_any_size() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, rows, columns = rng.integers(1, 400, 4).tolist()
        labels = rng.integers(0, 256, (height, width), dtype=np.uint8)
        expected = np.asarray(Image.fromarray(labels).resize((columns, rows), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(resize_labels(torch.from_numpy(labels)[None], (rows, columns))[0], expected)


def _case() -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(2, 4, side, side, generator=generator) for side in (8, 4)]
    labels = torch.randint(0, 4, (2, 16, 16), generator=generator)
    labels[0, :9] = 255
    return outputs, labels


def test_plain_loss_is_cross_entropy_over_labelled_pixels() -> None:
    outputs, labels = _case()
    expected = [F.cross_entropy(o, resize_labels(labels, (o.shape[2], o.shape[3])), ignore_index=255) for o in outputs]
    torch.testing.assert_close(multi_scale_loss(outputs, labels), torch.stack(expected))


def test_balanced_loss_weighs_foreground_as_background() -> None:
    outputs, labels = _case()
    target = resize_labels(labels, (8, 8))
    pixels = F.cross_entropy(outputs[0], target, ignore_index=255, reduction="none")
    expected = (pixels[target == 0].mean() + pixels[(target > 0) & (target != 255)].mean()) / 2
    torch.testing.assert_close(multi_scale_loss(outputs, labels, balanced=True)[0], expected)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_batch_without_labels_gives_no_nan(balanced: bool) -> None:
    outputs, labels = _case()
    for output in outputs:
        output.requires_grad_()
    losses = multi_scale_loss(outputs, torch.full_like(labels, 255), balanced=balanced)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert all(o.grad is not None and bool(torch.isfinite(o.grad).all()) for o in outputs)


def test_parts_of_a_batch_sum_to_the_whole() -> None:
    outputs, labels = _case()
    whole = multi_scale_loss(outputs, labels)
    counts: list[torch.Tensor] = []
    for half in (slice(0, 1), slice(1, 2)):
        multi_scale_loss([o[half] for o in outputs], labels[half], reduce_counts=lambda c: counts.append(c) or c)  # type: ignore[func-returns-value]
    total = counts[0] + counts[1]
    parts = [
        multi_scale_loss([o[half] for o in outputs], labels[half], reduce_counts=lambda _: total)
        for half in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)

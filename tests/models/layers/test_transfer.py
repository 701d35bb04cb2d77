"""The transfer target and RoI alignment against numbers of the published program."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.layers.transfer import (
    align_to_patches,
    background_loss,
    extract_patches,
    patch_attention,
    resize_saliency,
    saliency_pooled_logits,
    transfer_target,
    winner_map,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def _stats(values: torch.Tensor) -> list[float]:
    v = values.double()
    return [v.sum().item(), v.mean().item(), v.abs().mean().item(), v.max().item(), v.min().item()]


@pytest.mark.parametrize(("name", "threshold", "background"), [("voc", 0.001, "indicator"), ("coco", 0.1, "value")])
def test_target_equals_published(name: str, threshold: float, background: str) -> None:
    golden = np.load(GOLDEN / f"kd_target_{name}.npz")
    attention = patch_attention(torch.from_numpy(golden["feat_local"]), torch.from_numpy(golden["label"]))
    saliency = resize_saliency(torch.from_numpy(golden["crop_sals"]).float() / 255, (10, 10))
    target = transfer_target(attention, saliency, threshold=threshold, background_target=background)
    channels = golden["channels"] if "channels" in golden else np.arange(attention.shape[1])
    for key, ours in (("normalised", attention), ("winner", winner_map(attention)), ("target", target)):
        np.testing.assert_allclose(ours[:, channels].numpy(), golden[key], atol=1e-7, rtol=0, err_msg=key)
    if "sal_small" in golden:
        np.testing.assert_allclose(saliency.numpy(), golden["sal_small"], atol=1e-7)
    if "target_stats" in golden:
        np.testing.assert_allclose(_stats(target), golden["target_stats"], rtol=1e-5)


def test_roi_alignment_equals_published() -> None:
    golden = np.load(GOLDEN / "roi_align.npz")
    boxes = torch.from_numpy(golden["boxes_small"])[:, 1:].view(2, 6, 4)
    small = align_to_patches(torch.from_numpy(golden["feat_small"]), boxes, (5, 5), stride=8)
    np.testing.assert_allclose(small.numpy(), golden["out_small"], atol=1e-6)
    np.testing.assert_allclose(small.softmax(1).numpy(), golden["softmax_small"], atol=1e-6)
    boxes = torch.from_numpy(golden["boxes_448"])[:, 1:][None]
    large = align_to_patches(torch.from_numpy(golden["feat_448"]), boxes, (40, 40), stride=8)
    np.testing.assert_allclose(large[:, :, ::3, ::3].numpy(), golden["out_448"], atol=1e-6)
    np.testing.assert_allclose(large[:, :, -1].numpy(), golden["out_448_lastrow"].reshape(7, 3, 40), atol=1e-6)


def test_aligned_grid_boxes_are_plain_slices() -> None:
    score_map = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0, 0, 40, 40], [24, 8, 64, 48]]])
    out = align_to_patches(score_map, boxes, (5, 5), stride=8, aligned=True)
    torch.testing.assert_close(out[0], score_map[0, :, :5, :5])
    torch.testing.assert_close(out[1], score_map[0, :, 1:6, 3:8])


def test_normalising_per_image_keeps_weak_patches_weak() -> None:
    score_map = torch.zeros(2, 2, 2, 2)
    score_map[0, 0, 0, 0], score_map[1, 0, 0, 0] = 4.0, 1.0
    labels = torch.ones(1, 1)
    assert patch_attention(score_map, labels)[1].max() == pytest.approx(1.0)
    assert patch_attention(score_map, labels, per_image=True)[1].max() == pytest.approx(0.25)
    assert patch_attention(score_map + 1, labels, drop_background=True)[:, 1].max() == 0


def test_complement_target_is_a_distribution_where_a_class_wins() -> None:
    attention = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    attention[:, 3] = 0
    saliency = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    target = transfer_target(attention, saliency, threshold=0.01, background_target="complement")
    torch.testing.assert_close(target.sum(1), torch.ones(1, 5, 5))
    without = transfer_target(attention, None, threshold=0.01)
    torch.testing.assert_close(without.sum(1), attention.amax(1))
    assert (without > 0).sum() == 25


def test_patches_are_slices_next_to_each_other() -> None:
    images = torch.arange(2 * 1 * 6 * 6).view(2, 1, 6, 6).float()
    boxes = torch.tensor([[[0, 0, 4, 4], [2, 1, 6, 5]], [[1, 1, 5, 5], [0, 2, 4, 6]]])
    patches = extract_patches(images, boxes, 4)
    assert patches.shape == (4, 1, 4, 4)
    torch.testing.assert_close(patches[1], images[0, :, 1:5, 2:6])
    torch.testing.assert_close(patches[3], images[1, :, 2:6, 0:4])


def test_pooling_by_saliency_ignores_background_cells() -> None:
    score_map = torch.zeros(1, 2, 2, 2)
    score_map[0, 0, 0, 0] = 3.0
    saliency = torch.zeros(1, 1, 2, 2)
    saliency[0, 0, 0, 0] = 1.0
    assert saliency_pooled_logits(score_map, saliency).item() == pytest.approx(3.0)
    assert saliency_pooled_logits(score_map, torch.zeros_like(saliency)).item() == 0.0


def test_background_loss_is_cross_entropy_with_absence_of_saliency() -> None:
    score_map = torch.tensor([[[[9.0, 9.0]], [[9.0, 9.0]], [[0.0, 2.0]]]])
    saliency = torch.tensor([[[[0.25, 1.0]]]])
    expected = (math.log(2) + math.log1p(math.exp(2.0))) / 2 / 2
    assert background_loss(score_map, saliency).item() == pytest.approx(expected)
    assert background_loss(score_map, None).item() == pytest.approx(math.log1p(math.exp(-1.0)) / 2)


def test_winner_map_keeps_the_lowest_of_equal_channels() -> None:
    torch.manual_seed(0)
    for attention in (torch.rand(2, 5, 4, 4), torch.randint(0, 3, (2, 5, 4, 4)).float(), torch.zeros(1, 3, 2, 2)):
        value, channel = attention.max(dim=1, keepdim=True)
        lowest = (attention == value).int().argmax(dim=1, keepdim=True)
        assert torch.equal(winner_map(attention), torch.zeros_like(attention).scatter_(1, lowest, value))
        assert torch.equal(channel, lowest)

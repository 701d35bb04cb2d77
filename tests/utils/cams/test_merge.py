"""Merging of scales and mirror images, against the published numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.cams.inference import CamSettings, infer_batch
from utils.cams.merge import (
    average_mirrored,
    cams_to_labels,
    merge_scales,
    normalise_cams,
    predict_classes,
    quantise_cams,
    with_mirrored,
)
from utils.runtime.device import autocast_for

GOLDEN = Path(__file__).parents[2] / "golden" / "msf_cam_merge.npz"
IMAGES = {"2007_000001": (3, 14), "2007_000002": (0,)}
STORED_CHANNELS = [0, 3, 14, 20]
SCALES = (0.5, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN) as file:
        return dict(file)


class StubNetwork:
    """Hands out the fixture's maps, recognising the scale by the image's width."""

    def __init__(self, golden: dict[str, Any], image_id: str) -> None:
        self.maps: dict[int, torch.Tensor] = {}
        for j in range(len(SCALES)):
            pair = [torch.from_numpy(golden[f"stub_feat_{image_id}_{2 * j + flipped}"]) for flipped in (0, 1)]
            self.maps[pair[0].shape[-1]] = torch.cat(pair)

    def __call__(self, images: torch.Tensor, channels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert channels is not None
        maps = self.maps[images.shape[-1]][:, [STORED_CHANNELS.index(k) for k in channels.tolist()]]
        return maps, maps.mean(dim=(2, 3))


@pytest.mark.parametrize("image_id", IMAGES)
def test_stub_maps_give_the_published_cams(golden: dict[str, Any], image_id: str) -> None:
    classes = IMAGES[image_id]
    size = golden[f"img_{image_id}"].shape[:2]
    network = StubNetwork(golden, image_id)
    scales = [torch.zeros(1, 3, maps.shape[-2], maps.shape[-1]) for maps in network.maps.values()]
    settings = CamSettings(flip=True, score_threshold=None, label_threshold=0.25)
    (found,) = infer_batch(network, scales, size, [classes], settings, autocast_for("fp32", torch.device("cpu")))
    merged = merge_scales([average_mirrored(network(s, torch.tensor(classes))[0])[0] for s in scales], size)
    for position, k in enumerate(classes):
        cam = golden[f"stub_cam_{image_id}_{k}"]
        np.testing.assert_allclose(normalise_cams(merged)[position].numpy(), cam, rtol=0, atol=1e-5)
        png = golden[f"stub_png_{image_id}_{k}"].astype(int)
        assert np.abs(quantise_cams(found.cams)[position].numpy().astype(int) - png).max() <= 1
    assert found.labels is not None
    assert (found.labels.numpy() != golden[f"stub_pred_{image_id}"]).mean() <= 0.002


def test_quantising_is_the_published_rounding(golden: dict[str, Any]) -> None:
    for image_id, classes in IMAGES.items():
        for k in classes:
            cam = torch.from_numpy(golden[f"stub_cam_{image_id}_{k}"])
            assert np.array_equal(quantise_cams(cam).numpy(), golden[f"stub_png_{image_id}_{k}"])
    halves = torch.tensor([0.5, 1.5, 2.5, 300.0, -1.0]) / 255
    assert quantise_cams(halves).tolist() == [0, 2, 2, 255, 0]


def test_averaging_pairs_before_resizing_equals_after() -> None:
    maps = torch.randn(2, 5, 7, 9)
    size = (31, 44)

    def resized(m: torch.Tensor) -> torch.Tensor:
        return F.interpolate(m, size, mode="bicubic", align_corners=False)

    published = (resized(maps[:1]) + resized(maps[1:]).flip(-1)) / 2
    torch.testing.assert_close(resized(average_mirrored(maps)), published, rtol=0, atol=1e-5)


def test_mirroring_is_undone() -> None:
    images = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(average_mirrored(with_mirrored(images)), images)


def test_map_without_positive_values_stays_zero() -> None:
    assert normalise_cams(-torch.rand(1, 3, 3)).abs().max() == 0


def test_labels_prefer_background_then_the_lower_class_in_ties() -> None:
    cams = torch.tensor([[[0.25, 0.6, 0.1, 0.3]], [[0.2, 0.6, 0.3, 0.25]]])
    assert cams_to_labels(cams, (2, 7), 0.25).tolist() == [[0, 3, 8, 3]]


def test_prediction_names_at_least_the_most_probable_class() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -1.0, -2.0]])
    assert predict_classes(logits, 0.5) == [(0, 2), (1,)]


@pytest.mark.parametrize("background", [None, 5])
def test_each_image_of_a_batch_gets_its_own_classes(background: int | None) -> None:
    """A batch of two images with different classes equals two batches of one, predicted or given."""

    def network(images: torch.Tensor, channels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        maps = torch.cat([images[:, :, ::4, ::4], images[:, :, 1::4, 1::4] - 0.3], dim=1)
        wanted = maps if channels is None else maps[:, channels]
        return wanted, wanted[:, :5].mean(dim=(2, 3))

    torch.manual_seed(0)
    scales = [torch.randn(2, 3, 24, 32), torch.randn(2, 3, 48, 64)]
    no_autocast = autocast_for("fp32", torch.device("cpu"))
    for threshold in (None, 0.5):
        settings = CamSettings(flip=True, score_threshold=threshold, label_threshold=0.3, background=background)
        together = infer_batch(network, scales, (24, 32), [(0, 2), (1,)], settings, no_autocast)
        for i, classes in enumerate([(0, 2), (1,)]):
            alone = infer_batch(network, [s[i : i + 1] for s in scales], (24, 32), [classes], settings, no_autocast)[0]
            assert together[i].classes == alone.classes
            assert torch.equal(together[i].cams, alone.cams)
            assert torch.equal(together[i].labels, alone.labels)  # type: ignore[arg-type]
            if threshold is None:
                assert alone.classes == classes


def test_probabilities_are_against_background_and_the_images_other_classes() -> None:
    """Scores of 3 classes and background; the image has classes 0 and 2, so class 1 must not count, whatever its score."""
    scores = torch.tensor([[2.0, 0.0], [9.0, 9.0], [0.0, 1.0], [1.0, -1.0]])[None, :, None]  # (1, 4, 1, 2)

    def network(images: torch.Tensor, channels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        maps = scores if channels is None else scores[:, channels]
        return maps, maps.mean(dim=(2, 3))

    settings = CamSettings(flip=False, score_threshold=None, label_threshold=None, background=3)
    no_autocast = autocast_for("fp32", torch.device("cpu"))
    (found,) = infer_batch(network, [torch.zeros(1, 3, 1, 2)], (1, 2), [(0, 2)], settings, no_autocast)
    weights = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, -1.0]]).exp()
    expected = (weights / weights.sum(dim=0))[:2]
    torch.testing.assert_close(found.cams[:, 0], expected / expected.amax(dim=1, keepdim=True))

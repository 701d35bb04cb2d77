import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from models.refiners import Chain, build_refiner
from models.refiners import pamr as pamr_module
from models.refiners.pamr import PAMR, PamrConfig, PamrRefiner

GOLDEN = Path(__file__).parents[2] / "golden" / "wsfcn" / "pamr.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(value) for name, value in arrays.items()}


def make_case(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return pictures in 8-bit steps with flat parts, and soft-max scores."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(batch, 3, height, width, generator=generator) * 255).round() / 255
    images[..., : width // 3] = 0.5
    return images, torch.randn(batch, classes, height, width, generator=generator).softmax(1)


def straight(images: Tensor, masks: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """Return the refined masks (B, D, H, W) in float64, each pixel and each neighbour by the formulas of the paper."""
    images, masks = images.double(), masks.double()
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    steps = [(d * i, d * j) for d in dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]
    there = [((y + i).clamp(0, height - 1), (x + j).clamp(0, width - 1)) for i, j in steps]
    deviation = torch.stack([images[:, :, rows, columns] for rows, columns in there]).std(0)
    others = [place for place, step in zip(there, steps, strict=True) if step != (0, 0)]
    near = torch.stack([images[:, :, rows, columns] for rows, columns in others])
    weights = (-(images - near).abs() / (1e-8 + 0.1 * deviation)).mean(2).softmax(0)
    for _ in range(iterations):
        masks = sum(w[:, None] * masks[:, :, rows, columns] for w, (rows, columns) in zip(weights, others, strict=True))
    return masks


@pytest.mark.parametrize(
    ("name", "config"),
    [("out_10", PamrConfig()), ("out_1", PamrConfig(iterations=1)), ("out_5_d124", PamrConfig([1, 2, 4], 5))],
)
def test_golden(golden: dict[str, Tensor], name: str, config: PamrConfig) -> None:
    """Masks come at half the size of the pictures."""
    refiner = PAMR(config)
    refined = refiner(golden["image"], golden["mask"])
    torch.testing.assert_close(refined, golden[name], rtol=1e-5, atol=1e-6)
    again = refiner(golden["image"][1:], golden["mask"][1:])
    torch.testing.assert_close(again, refined[1:], rtol=1e-5, atol=1e-6)


def test_golden_affinities(golden: dict[str, Tensor]) -> None:
    found = PAMR(PamrConfig()).affinities(golden["image"])[:, ::5, ::5].permute(0, 3, 1, 2)
    torch.testing.assert_close(found[:, None], golden["affinity_sub"], rtol=1e-5, atol=1e-6)


def test_published_snapshots_load() -> None:
    network = nn.Module()
    network.add_module("_aff", PAMR(PamrConfig()))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {
        "_aff.aff_x.kernel": (8, 1, 3, 3), "_aff.aff_m.kernel": (8, 1, 3, 3), "_aff.aff_std.kernel": (9, 1, 3, 3),
    }  # fmt: skip
    ours = network.state_dict()
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    assert functional.conv2d(picture, ours["_aff.aff_std.kernel"]).flatten().tolist() == list(range(9))
    assert functional.conv2d(picture, ours["_aff.aff_m.kernel"]).flatten().tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert functional.conv2d(picture, ours["_aff.aff_x.kernel"]).flatten().tolist() == [4, 3, 2, 1, -1, -2, -3, -4]
    assert not list(network.parameters())


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2), (23, 31), (40, 26)])
def test_pictures_smaller_than_a_dilation(size: tuple[int, int]) -> None:
    """What lies outside repeats the edge, however far."""
    images, masks = make_case(2, 3, *size)
    expected = straight(images, masks, (1, 2, 4, 8, 12, 24), 3)
    torch.testing.assert_close(PAMR(PamrConfig(iterations=3))(images, masks), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pixels", [1, 50, 10**6])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """A block may be less than a row, and hold the end of one picture and the start of the next."""
    images, masks = make_case(3, 5, 7, 20)
    monkeypatch.setattr(pamr_module, "_CPU_BLOCK", pixels)
    refined = PAMR(PamrConfig([1, 3], 4))(images, masks)
    torch.testing.assert_close(refined, straight(images, masks, (1, 3), 4).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 4])
def test_what_is_given_stays_and_no_gradient_passes(classes: int) -> None:
    images, masks = make_case(2, classes, 8, 9)
    before = masks.clone()
    refined = PAMR(PamrConfig())(images, masks.requires_grad_())
    assert torch.equal(masks, before) and not refined.requires_grad and refined.is_contiguous()
    torch.testing.assert_close(refined.sum(1), masks.detach().sum(1) if classes > 1 else refined[:, 0], rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_its_type() -> None:
    images, masks = make_case(1, 3, 8, 9)
    refined = PAMR(PamrConfig())(images, masks.bfloat16())
    assert refined.dtype == torch.bfloat16
    torch.testing.assert_close(refined.float(), PAMR(PamrConfig())(images, masks), rtol=2e-2, atol=2e-2)


def test_stays_on_the_device_of_its_input() -> None:
    with FakeTensorMode():
        images, masks = torch.empty(2, 3, 40, 50, device="cuda"), torch.empty(2, 4, 10, 12, device="cuda")
        refined = PAMR(PamrConfig())(images, masks)
        assert refined.device.type == "cuda" and refined.shape == (2, 4, 40, 50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same() -> None:
    images, masks = make_case(2, 21, 60, 80)
    torch.testing.assert_close(
        PAMR(PamrConfig())(images.cuda(), masks.cuda()).cpu(), PAMR(PamrConfig())(images, masks), rtol=1e-5, atol=1e-6
    )


def test_wrong_shapes_are_named() -> None:
    images, masks = make_case(2, 3, 8, 9)
    for wrong in (masks[:1], masks[0]):
        with pytest.raises(ValueError, match=r"images \(2, 3, 8, 9\) and masks .* do not fit"):
            PAMR(PamrConfig())(images, wrong)
    with pytest.raises(ValueError, match=r"\(8, 8, 3\).*\(8, 9, 3\)"):
        PamrRefiner(PamrConfig(), None).refine(masks[0].numpy(), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("wrong", [{"dilations": []}, {"dilations": [0, 1]}, {"iterations": 0}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"pamr\.{next(iter(wrong))} is .*expected"):
        PamrRefiner.from_settings(PamrConfig(**wrong), mean=(0, 0, 0), device=None)


def test_as_a_refiner() -> None:
    """It comes from its section, travels between processes, and reads pictures that may not be written to or run backwards."""
    images, masks = make_case(1, 3, 20, 30)
    images = (images * 255).round() / 255
    picture = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    picture.flags.writeable = False

    class Sections:
        pamr = PamrConfig([1, 2], 3)

    refiner = pickle.loads(pickle.dumps(build_refiner("pamr", Sections)))
    assert refiner.settings() == {"dilations": [1, 2], "iterations": 3}
    refined = refiner.refine(masks[0].numpy(), picture)
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined, straight(images, masks, (1, 2), 3)[0], rtol=1e-5, atol=1e-6)
    mirrored = refiner.refine(masks[0].numpy()[:, :, ::-1], picture[:, ::-1])
    np.testing.assert_allclose(mirrored[:, :, ::-1], refined, rtol=1e-5, atol=1e-6)
    chain = build_refiner(["pamr", "pamr"], Sections)
    assert isinstance(chain, Chain)
    np.testing.assert_allclose(
        chain.refine(masks[0].numpy(), picture), straight(images, masks, (1, 2), 6)[0], rtol=1e-5, atol=1e-6
    )

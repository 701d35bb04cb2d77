"""Masks merged over padded scales or crops, and stored as npz: against the published numbers, and damaged."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from configs.cam_schema import PseudoConfig
from models.refiners import build_refiner
from models.refiners.dense_crf import is_importable
from scripts.build import load_config
from utils.cams.inference import CamSettings, infer_batch
from utils.cams.labels import background_score, fuse_scores
from utils.cams.merge import pad_centred
from utils.cams.store import classes_on_disk, read_cams, read_scores
from utils.data.loading import resize_scaled
from utils.errors import UserError
from utils.runtime.device import autocast_for

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "wsfcn"
SCALES = (1.0, 0.5, 1.5, 2.0)
FP32 = autocast_for("fp32", torch.device("cpu"))


def _background_last(x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], x[:, :1]], dim=1)


def _settings(**more: Any) -> CamSettings:
    return CamSettings(
        flip=True, score_threshold=None, label_threshold=0.25, background=20, masks=True, pad_size=(64, 96), **more
    )


def test_padded_scales_and_flips_merge_as_published() -> None:
    golden = np.load(GOLDEN / "inference_merge.npz")
    base = torch.from_numpy(golden["base"])[None]
    present = tuple(np.flatnonzero(golden["labels"]).tolist())
    calls = iter(golden["pads"][::2].astype(int).tolist())

    def network(images: Tensor, channels: Tensor | None) -> tuple[Tensor, Tensor]:
        top, left, height, width = next(calls)
        assert images.shape == (2, 3, 64, 96)
        plain = F.interpolate(base, (height, width), mode="bilinear", align_corners=False)
        canvas = torch.zeros(2, 21, 64, 96)
        canvas[0, :, top : top + height, left : left + width] = plain[0]
        canvas[1, :, top : top + height, left : left + width] = plain[0].flip(-1)
        assert channels is not None
        return _background_last(canvas)[:, channels], torch.zeros(2, len(channels))

    scales = [torch.ones(1, 3, round(30 * s), round(40 * s)) for s in SCALES]
    (found,) = infer_batch(network, scales, (30, 40), [present], _settings(), FP32)
    np.testing.assert_allclose(found.cams, golden["merged"][[k + 1 for k in present]], atol=1e-5)
    assert found.labels is not None
    np.testing.assert_array_equal(found.labels, golden["pred_argmax"])
    scores = [cam.numpy() for cam in found.cams]
    rule = PseudoConfig(background="inverse")
    inverse = background_score(rule, scores, None, (30, 40))
    np.testing.assert_allclose(inverse, (1 - golden["merged"][1:].max(axis=0)) ** 5, atol=1e-5)
    constant = fuse_scores(present, scores, background_score(PseudoConfig(), scores, None, (30, 40)))
    np.testing.assert_array_equal(constant, golden["pred_argmax"])


@pytest.mark.parametrize("backend", ["pydensecrf", "torch"])
def test_masks_after_the_dense_crf_equal_published(backend: str) -> None:
    if backend == "pydensecrf" and not is_importable():
        pytest.skip("pydensecrf2 is not installed")
    golden = np.load(GOLDEN / "inference_merge.npz")
    cfg = load_config(ROOT / "configs" / "wsfcn_voc.yaml", [f"crf.backend={backend}"])
    refiner = build_refiner(cfg.pseudo.refine, cfg)
    assert refiner is not None
    merged, present = golden["merged"], tuple(np.flatnonzero(golden["labels"]).tolist())
    scores = [merged[k + 1] for k in present]
    background = background_score(cfg.pseudo, scores, None, (30, 40))
    labels = fuse_scores(present, scores, background, partial(refiner.refine, image=golden["image"]))
    refined = refiner.refine(np.concatenate([background[None], merged[1:]]), golden["image"])
    plain = refiner.refine(merged, golden["image"])
    np.testing.assert_allclose(refined[:, ::2, ::2], golden["crf_alpha5_sub"], atol=1e-3)
    # The fixtures' tolerance: a few pixels of 1200.
    assert np.count_nonzero(labels != golden["crf_alpha5_argmax"]) <= 3
    assert np.count_nonzero(plain.argmax(0) != golden["crf_plain_argmax"]) <= 3


def test_one_stage_refines_its_masks_over_wider_distances() -> None:
    one, wsfcn = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("onestage_voc_resnet38", "wsfcn_voc"))
    section = {**vars(wsfcn.crf), "bi_xy_std": 80}
    assert vars(one.crf) == section and (one.pseudo.background, one.pseudo.background_power) == ("mask", 3)


def test_crops_merge_as_published() -> None:
    golden = np.load(GOLDEN / "inference_merge.npz")
    plain = F.interpolate(torch.from_numpy(golden["crop_base"])[None], (40, 56), mode="bilinear", align_corners=False)
    corners, number = golden["crop_coords"], iter(range(0, 8, 2))
    top, left = corners[0, 4:]

    def network(images: Tensor, channels: Tensor | None) -> tuple[Tensor, Tensor]:
        entry = next(number)
        y, x = corners[entry, 0], corners[entry, 2]
        # Where a crop lies shows in the picture: its pixels are their own row and column on the canvas.
        assert images[0, 0, max(top - y, 0), 28] == max(top - y, 0) + y - top + 1 and images.shape == (2, 3, 40, 56)
        # The published program mirrors each crop, the even entry of a pair; here the canvas is mirrored, and so the crop of
        # the other column lies here.
        other = entry + 2 if x == 0 else entry - 2
        both = torch.cat([plain * (1 + 0.1 * (entry + 1)), plain * (1 + 0.1 * other)])
        assert channels is not None
        return _background_last(both)[:, channels], torch.zeros(2, len(channels))

    rows = torch.arange(1.0, 51.0)[:, None].expand(50, 70)
    picture = torch.stack([rows, rows, rows])[None]
    present = tuple(np.flatnonzero(golden["labels"]).tolist())
    settings = _settings(crop_size=(40, 56), crop_grid=(2, 2))
    (found,) = infer_batch(network, [picture], (50, 70), [present], settings, FP32)
    assert found.background is not None
    stacked = torch.cat([found.background[None], found.cams])
    kept = [0, *(k + 1 for k in present)]
    np.testing.assert_allclose(stacked[:, ::3, ::3], golden["crop_merged_sub"][kept], atol=1e-4)


def test_padded_views_equal_published() -> None:
    golden = np.load(GOLDEN / "multiscale_loader.npz")
    image = Image.fromarray(golden["image"])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for number, scale in enumerate(SCALES):
        view = torch.from_numpy(np.array(resize_scaled(image, scale))).permute(2, 0, 1).float()[None] / 255
        canvas, corner = pad_centred((view - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1), (64, 96))
        assert [*corner, *view.shape[2:]] == golden[f"item{2 * number}_pads"].astype(int).tolist()
        np.testing.assert_allclose(canvas[0, :, ::4, ::4], golden[f"item{2 * number}_x_sub"], atol=0.04)


def test_an_image_without_any_predicted_class_is_background() -> None:
    def network(images: Tensor, channels: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.rand(len(images), 4, 8, 8), torch.full((len(images), 3), -9.0)

    for masks in (True, False):
        settings = CamSettings(
            flip=False, score_threshold=0.1, label_threshold=0.25, background=3 if masks else None, masks=masks, any_view=True
        )
        (found,) = infer_batch(network, [torch.zeros(1, 3, 8, 8)], (8, 8), [()], settings, FP32)
        assert found.classes == () and found.labels is not None and not found.labels.any()


def test_npz_maps_are_read_exactly_and_damaged_ones_are_told(tmp_path: Path) -> None:
    cam = np.random.default_rng(0).random((2, 5, 7), dtype=np.float32)
    np.savez(tmp_path / "a.npz", classes=np.array([1, 4]), cam=cam, background=1 - cam[0])
    (found,), background = read_scores(tmp_path, "a", [4], (7, 5))
    assert np.array_equal(found, cam[1]) and background is not None and np.array_equal(background, 1 - cam[0])
    assert np.array_equal(read_cams(tmp_path, "a", [1], (7, 5))[0], np.rint(cam[0] * 255).astype(np.uint8))
    assert classes_on_disk(tmp_path, 20) == {"a": (1, 4)}
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    for read in (lambda: classes_on_disk(tmp_path, 20), lambda: read_scores(tmp_path, "a", [1], (7, 5))):
        with pytest.raises(UserError, match=r"a\.npz cannot be read .*cam.overwrite=true"):
            read()

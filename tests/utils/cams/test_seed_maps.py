import contextlib
from pathlib import Path

import numpy as np
import torch

from utils.cams.inference import CamSettings, infer_batch
from utils.cams.merge import SeedMaps, add_mirrored, seed_maps, write_seed_maps

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "sa_cda" / "cam_export.npz")
GOLDEN_CRT = Path(__file__).parents[2] / "golden" / "crt" / "make_cam_merge.npz"


def test_published_export() -> None:
    classes = np.flatnonzero(GOLDEN["label"]).tolist()
    pairs = [np.concatenate([GOLDEN[f"cam{i}"], GOLDEN[f"cam{i + 1}"]]) for i in range(0, 8, 2)]
    merged = [add_mirrored(torch.from_numpy(pair))[0, classes] for pair in pairs]
    height, width = (int(v) for v in GOLDEN["image_hw"])
    maps = seed_maps(merged, (height, width))
    np.testing.assert_allclose(maps.low, GOLDEN["irn_cam"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(maps.high, GOLDEN["irn_high_res"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(maps.high, GOLDEN["aff_hr_cam"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(maps.low, GOLDEN["aff_cam"], rtol=1e-4, atol=1e-6)


def test_published_merge_of_seven_scales_through_inference() -> None:
    """The published maps of a scale are sums of both views, cut at 0: as if the mirrored view had seen nothing."""
    golden = np.load(GOLDEN_CRT)
    raw, classes = [torch.from_numpy(golden[f"raw{i}"]) for i in range(7)], tuple(golden["keys"].tolist())
    maps = iter(raw)

    def network(images: torch.Tensor, channels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        scores = next(maps)[channels]
        return torch.stack([scores, -torch.ones_like(scores)]), torch.zeros(2, len(classes))

    size = (int(golden["size"][0]), int(golden["size"][1]))
    settings = CamSettings(flip=True, score_threshold=None, label_threshold=0.15, refine=True, summed=True)
    scales = [torch.zeros(1, 3, 1, 1)] * len(raw)
    image = infer_batch(network, scales, size, [classes], settings, contextlib.nullcontext())[0]
    assert image.refine is not None and image.labels is not None
    np.testing.assert_allclose(image.cams, golden["high_res"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(image.refine.low, golden["cam"], rtol=0, atol=1e-5)
    assert image.labels.shape == size and image.small is image.refine.low


def test_an_image_of_no_class_has_no_maps() -> None:
    settings = CamSettings(flip=False, score_threshold=None, label_threshold=0.15, summed=True)
    context = contextlib.nullcontext()
    image = infer_batch(lambda *_: (torch.zeros(1, 0, 2, 2), torch.zeros(1, 0)), [torch.zeros(1, 3, 4, 4)], (20, 30), [()],
                        settings, context)[0]  # fmt: skip
    assert image.cams.shape == (0, 20, 30) and image.labels is not None and not image.labels.any()


def test_files_hold_the_published_keys_without_pickle(tmp_path: Path) -> None:
    maps = SeedMaps(torch.rand(2, 3, 4), torch.rand(2, 10, 13))
    write_seed_maps(tmp_path / "a.npz", (3, 14), maps)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["classes"].tolist() == GOLDEN["irn_keys"].tolist()
        assert found["labels"].tolist() == GOLDEN["aff_keys"].tolist()
        np.testing.assert_allclose(found["high_res"], maps.high, atol=1e-3)
        assert found["cam"].dtype == np.float32 and np.array_equal(found["cam"], maps.low)

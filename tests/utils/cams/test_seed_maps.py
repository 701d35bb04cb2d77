from pathlib import Path

import numpy as np
import torch

from utils.cams.merge import SeedMaps, add_mirrored, seed_maps, write_seed_maps

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "sa_cda" / "cam_export.npz")


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


def test_files_hold_the_published_keys_without_pickle(tmp_path: Path) -> None:
    maps = SeedMaps(torch.rand(2, 3, 4), torch.rand(2, 10, 13))
    write_seed_maps(tmp_path / "a.npz", (3, 14), maps)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["classes"].tolist() == GOLDEN["irn_keys"].tolist()
        assert found["labels"].tolist() == GOLDEN["aff_keys"].tolist()
        np.testing.assert_allclose(found["high_res"], maps.high, atol=1e-3)
        assert found["cam"].dtype == np.float16

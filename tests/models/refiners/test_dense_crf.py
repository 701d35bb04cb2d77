from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from configs.crf_schema import CrfConfig
from models.refiners import dense_crf as crf_pydensecrf
from models.refiners import mean_field as crf_torch
from models.refiners.dense_crf import DenseCrf, dense_crf, dense_crf_batch, published_image, resolve_backend
from models.refiners.mean_field import CrfParameters

GOLDEN = Path(__file__).parents[2] / "golden" / "deeplab" / "crf.npz"
SETS: dict[str, dict[str, Any]] = {
    "A": {"pos_w": 3, "pos_xy_std": 1, "bi_w": 4, "bi_xy_std": 67, "bi_rgb_std": 3},
    "B": {"pos_w": 3, "pos_xy_std": 3, "bi_w": 4, "bi_xy_std": 121, "bi_rgb_std": 5},
    "C": {"pos_w": 2, "pos_xy_std": 2, "bi_w": 4, "bi_xy_std": 65, "bi_rgb_std": 3},
}
MEAN = (122.675, 116.669, 104.008)
needs_library = pytest.mark.skipif(not crf_pydensecrf.is_importable(), reason="pydensecrf2 is not installed")
BACKENDS = [pytest.param("pydensecrf", marks=needs_library), "torch"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def make_case(classes: int, height: int, width: int, seed: int = 0) -> tuple[Floats, Pixels]:
    """Return smooth probabilities (a region a class) with noise, and a picture whose colours follow them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    region = (x * 3 // max(width, 1) + y * 2 // max(height, 1)) % classes
    logits = rng.normal(0, 1, (classes, height, width)) + 2 * (np.arange(classes)[:, None, None] == region)
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    image = np.clip(60 * region[:, :, None] + rng.normal(60, 5, (height, width, 3)), 0, 255)
    return probabilities.astype(np.float32), image.astype(np.uint8)


def assert_same(first: Floats, second: Floats) -> None:
    assert first.shape == second.shape and first.dtype == second.dtype == np.float32
    assert np.abs(first - second).max() <= 1e-3
    assert (first.argmax(0) == second.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("picture", ["raw", "wrapped"])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_golden(golden: dict[str, Any], backend: str, name: str, picture: str) -> None:
    image = golden["image_raw_bgr" if picture == "raw" else "image_wrapped"]
    refined = dense_crf(golden["prob"], image, backend=backend, **SETS[name])
    np.testing.assert_allclose(refined, golden[f"Q_{name}_{picture}"], atol=1e-4)
    np.testing.assert_array_equal(refined.argmax(0), golden[f"label_{name}_{picture}"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_single_iteration_and_certain_corner(golden: dict[str, Any], backend: str) -> None:
    image = golden["image_raw_bgr"]
    for name, constants in SETS.items():
        refined = dense_crf(golden["prob"], image, backend=backend, iterations=1, **constants)
        np.testing.assert_allclose(refined, golden[f"Q_{name}_raw_iter1"], atol=1e-4)
    refined = dense_crf(golden["prob_onehot_corner"], image, backend=backend)
    np.testing.assert_allclose(refined, golden["Q_A_raw_onehot_corner"], atol=1e-4)


def test_published_image(golden: dict[str, Any]) -> None:
    rgb = golden["image_raw_bgr"][:, :, ::-1]
    np.testing.assert_array_equal(published_image(rgb, MEAN), golden["image_wrapped"])
    # 100 - 104.008 is truncated to -4, which wraps to 252; channels come out as B, G, R.
    assert published_image(np.full((1, 1, 3), 100, np.uint8), MEAN).tolist() == [[[252, 240, 234]]]


@needs_library
@pytest.mark.parametrize(
    ("classes", "height", "width", "constants"),
    [
        (21, 60, 83, {}),
        (81, 31, 45, {}),
        (2, 37, 53, {"bi_xy_std": 4, "bi_rgb_std": 13}),
        (5, 41, 33, {"pos_xy_std": 3, "bi_xy_std": 121, "bi_rgb_std": 5, "iterations": 5}),
        (4, 30, 31, {"bi_w": 200, "pos_w": 30, "iterations": 2}),
        (4, 30, 31, {"bi_w": 0}),
        (4, 30, 31, {"pos_w": 0}),
        (3, 1, 7, {}),
        (3, 1, 1, {}),
        (1, 5, 6, {}),
    ],
)
def test_backends_agree(classes: int, height: int, width: int, constants: dict[str, Any]) -> None:
    probabilities, image = make_case(classes, height, width)
    expected = dense_crf(probabilities, image, backend="pydensecrf", **constants)
    assert_same(dense_crf(probabilities, image, backend="torch", **constants), expected)


def test_messages_too_large_for_exp() -> None:
    probabilities, image = make_case(3, 20, 20)
    refined = dense_crf(probabilities, image, backend="torch", bi_w=1000, iterations=2)
    assert np.isfinite(refined).all()
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)


def test_portions_of_classes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, image = make_case(7, 24, 31)
    whole = dense_crf(probabilities, image, backend="torch")
    monkeypatch.setattr("models.refiners.mean_field._PORTION_BYTES", 3 * 4 * 24 * 31)
    np.testing.assert_allclose(dense_crf(probabilities, image, backend="torch"), whole, atol=1e-6)
    overflowing = dense_crf(probabilities, image, backend="torch", bi_w=1000)
    np.testing.assert_allclose(overflowing.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_equals_single(backend: str) -> None:
    cases = [make_case(4, 20, 31), make_case(6, 31, 20, seed=1), make_case(4, 20, 31, seed=2), make_case(1, 3, 3)]
    together = dense_crf_batch([case[0] for case in cases], [case[1] for case in cases], backend=backend)
    for (probabilities, image), refined in zip(cases, together, strict=True):
        np.testing.assert_allclose(refined, dense_crf(probabilities, image, backend=backend), atol=1e-6)
    nothing: list[Floats] = []
    assert dense_crf_batch(nothing, [], backend=backend) == []


def test_images_in_one_lattice_stay_apart() -> None:
    """What a GPU does with a batch, on the CPU: sizes and numbers of classes differ, pixels are padded in between."""
    cases = [make_case(4, 20, 31), make_case(6, 31, 21, seed=1), make_case(2, 1, 1), make_case(4, 20, 31, seed=2)]
    probabilities, images = [torch.from_numpy(case[0]) for case in cases], [torch.from_numpy(case[1]) for case in cases]
    together = crf_torch._refine_together(probabilities, images, CrfParameters())
    for (one, image), refined in zip(cases, together, strict=True):
        assert_same(refined.numpy(), dense_crf(one, image, backend="torch"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropped_classes_come_back_as_zero(backend: str) -> None:
    probabilities, image = make_case(3, 20, 31)
    seven = np.zeros((7, 20, 31), np.float32)
    seven[[1, 2, 5]] = probabilities * 0.98
    seven[[0, 3, 4, 6]] = 0.005
    dropped = dense_crf(seven, image, backend=backend, drop_below=0.05)
    assert (dropped[[0, 3, 4, 6]] == 0).all()
    np.testing.assert_array_equal(dropped[[1, 2, 5]], dense_crf(seven[[1, 2, 5]], image, backend=backend))
    kept = dense_crf(seven, image, backend=backend)
    assert (kept[[0, 3, 4, 6]] > 0).any()
    assert (kept.argmax(0) == dropped.argmax(0)).mean() > 0.99
    # A bound that no class reaches drops none.
    np.testing.assert_array_equal(dense_crf(seven, image, backend=backend, drop_below=1.0), kept)


def test_dropping_in_a_batch_is_by_image() -> None:
    probabilities, image = make_case(3, 16, 18)
    probabilities[2] *= 0.01
    other, picture = make_case(3, 16, 18, seed=3)
    first, second = dense_crf_batch([probabilities, other], [image, picture], backend="torch", drop_below=0.05)
    assert (first[2] == 0).all() and (second[2] > 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_come_back_as_tensors_and_inputs_stay(backend: str) -> None:
    probabilities, image = make_case(3, 12, 14)
    before = probabilities.copy()
    expected = dense_crf(probabilities, image, backend=backend)
    refined = dense_crf(torch.from_numpy(probabilities), torch.from_numpy(image), backend=backend)
    assert isinstance(expected, np.ndarray) and isinstance(refined, torch.Tensor)
    np.testing.assert_array_equal(refined.numpy(), expected)
    np.testing.assert_array_equal(probabilities, before)
    # Views that run backwards or may not be written to, as readers of pictures return them.
    image.setflags(write=False)
    mirrored = dense_crf(probabilities[:, :, ::-1], image[:, ::-1], backend=backend)
    assert mirrored.shape == expected.shape
    np.testing.assert_allclose(expected.sum(0), 1, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_labels_of_the_cpu() -> None:
    cases = [make_case(21, 60, 83), make_case(21, 50, 41, seed=1)]
    together = dense_crf_batch([case[0] for case in cases], [case[1] for case in cases], device="cuda")
    for (probabilities, image), refined in zip(cases, together, strict=True):
        assert_same(refined, dense_crf(probabilities, image, backend="torch"))


def test_wrong_arrays_are_named() -> None:
    probabilities, image = make_case(3, 8, 9)
    for wrong, picture, message in [
        (probabilities[0], image, r"shape \(8, 9\)"),
        (probabilities[:0], image, r"shape \(0, 8, 9\)"),
        (probabilities.astype(np.float64), image, "float64"),
        (probabilities, image[:, :-1], r"\(8, 8, 3\).*\(8, 9, 3\)"),
        (probabilities, image.transpose(2, 0, 1), r"\(3, 8, 9\)"),
        (probabilities, image.astype(np.float32), "float32.*uint8"),
        (np.log(probabilities), image, "soft-max"),
        (probabilities * 2, image, "soft-max"),
        (np.where(probabilities > 0.5, np.float32("nan"), probabilities), image, "not finite"),
    ]:
        for backend in ("auto", "torch"):
            with pytest.raises(ValueError, match=message):
                dense_crf(wrong, picture, backend=backend)
    with pytest.raises(ValueError, match="2 probabilities but 1 images"):
        dense_crf_batch([probabilities, probabilities], [image])


@pytest.mark.parametrize(
    "wrong",
    [{"iterations": 0}, {"pos_w": -1}, {"bi_w": float("nan")}, {"pos_xy_std": 0}, {"bi_xy_std": -3}, {"bi_rgb_std": 0}],
)
def test_constants_out_of_range(wrong: dict[str, Any]) -> None:
    probabilities, image = make_case(3, 8, 9)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dense_crf(probabilities, image, **wrong)


def test_too_many_lattice_cells_is_an_error() -> None:
    probabilities, image = make_case(3, 8, 9)
    with pytest.raises(ValueError, match="larger standard deviations"):
        dense_crf(probabilities, image, backend="torch", bi_rgb_std=1e-4, bi_xy_std=1e-4)


def test_choice_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'numpy', expected one of auto, pydensecrf, torch"):
        resolve_backend("numpy")
    monkeypatch.setattr("models.refiners.dense_crf.is_importable", lambda: True)
    assert resolve_backend("auto") == "pydensecrf" and resolve_backend("auto", "cuda:0") == "torch"
    assert resolve_backend("torch") == "torch"
    monkeypatch.setattr("models.refiners.dense_crf.is_importable", lambda: False)
    assert resolve_backend("auto") == "torch"
    with pytest.raises(ValueError, match="pydensecrf2"):
        resolve_backend("pydensecrf")


def test_from_config(golden: dict[str, Any]) -> None:
    rgb = golden["image_raw_bgr"][:, :, ::-1]
    published = DenseCrf.from_settings(CrfConfig(backend="torch", image="published"), mean=MEAN)
    refined = published.refine(golden["prob"], rgb)
    np.testing.assert_allclose(refined, golden["Q_A_wrapped"], atol=1e-4)
    np.testing.assert_array_equal(published.batch([golden["prob"]], [rgb])[0], refined)
    assert published.settings() == {
        "backend": "torch", "image": "published", "drop_below": 0.0, "iter_max": 10,
        "pos_w": 3.0, "pos_xy_std": 1.0, "bi_w": 4.0, "bi_xy_std": 67.0, "bi_rgb_std": 3.0,
    }  # fmt: skip
    plain = DenseCrf.from_settings(CrfConfig(backend="torch", iter_max=2, drop_below=0.05))
    expected = dense_crf(golden["prob"], rgb, backend="torch", iterations=2, drop_below=0.05)
    np.testing.assert_array_equal(plain.refine(golden["prob"], rgb), expected)


@pytest.mark.parametrize(
    "wrong", [{"drop_below": 1.5}, {"image": "rgb"}, {"backend": "gpu"}, {"iter_max": 0}, {"bi_rgb_std": 0.0}]
)
def test_from_config_out_of_range(wrong: dict[str, Any]) -> None:
    name = {"iter_max": "iterations"}.get(next(iter(wrong)), next(iter(wrong)))
    with pytest.raises(ValueError, match=name):
        DenseCrf.from_settings(CrfConfig(**wrong))

"""The random walk, against the published numbers and the dense matrices it stands for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.plain_walk import dense_walk, transition
from models.refiners import build_cam_refiner, build_refiner
from models.refiners.random_walk import RandomWalk, RandomWalkSettings, chebyshev_of_power, enlarged, random_walk
from scripts.build import load_config

FOLDER = Path(__file__).parents[2] / "golden" / "crt"
GOLDEN = {name: torch.from_numpy(value) for name, value in np.load(FOLDER / "random_walk.npz").items()}


def _published(maps: torch.Tensor, beta: float, exp_times: int) -> torch.Tensor:
    return random_walk(maps[None], GOLDEN["edge"][None], beta=beta, steps=2**exp_times)[0]


def test_published_walks() -> None:
    """256 steps within what squaring in float32 loses (2.4e-5), and within 1e-5 of the same in float64."""
    np.testing.assert_allclose(_published(GOLDEN["cams"], 4, 2), GOLDEN["rw_beta4_exp2"][:, 0], atol=1e-5)
    walked = _published(GOLDEN["cams"], 10, 8)
    np.testing.assert_allclose(walked, GOLDEN["rw_beta10_exp8"][:, 0], atol=3e-5)
    exact = dense_walk(GOLDEN["cams"].double(), GOLDEN["edge"].double(), beta=10, exp_times=8)
    np.testing.assert_allclose(walked, exact, atol=1e-6)


def test_published_walk_of_instances() -> None:
    walked = _published(GOLDEN["instance_cams"].flatten(0, 1), 10, 8)
    np.testing.assert_allclose(walked, GOLDEN["rw_instances"][:, 0], atol=1e-4)


def test_published_transition_of_the_plain_form() -> None:
    np.testing.assert_allclose(transition(GOLDEN["dense_in"], beta=3, exp_times=2), GOLDEN["trans_beta3_exp2"], atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 64])
def test_any_number_of_steps_of_a_batch(steps: int) -> None:
    torch.manual_seed(0)
    boundary, maps = torch.rand(2, 1, 9, 7), torch.randn(2, 3, 9, 7)
    walked = random_walk(maps, boundary, beta=2.5, steps=steps, radius=3)
    for found, one, edge in zip(walked, maps, boundary, strict=True):
        exact = dense_walk(one.double(), edge.double(), beta=2.5, exp_times=None, steps=steps, radius=3)
        np.testing.assert_allclose(found, exact, atol=1e-5)


def test_coefficients_sum_up_to_one_and_most_are_left_out() -> None:
    found = chebyshev_of_power(256)
    assert abs(sum(found) - 1) < 2e-8 and len(found) < 110
    x = 0.97
    terms = [a * np.cos(k * np.arccos(x)) for k, a in enumerate(found)]
    assert abs(sum(terms) - x**256) < 1e-8


def test_published_masks() -> None:
    golden = np.load(FOLDER / "sem_seg_label.npz")
    cam, edge, size = (torch.from_numpy(golden[name]) for name in ("cam", "edge", "size"))
    walked = random_walk(cam[None], edge[None])
    np.testing.assert_allclose(walked[0], golden["rw"][:, 0], atol=1e-4)
    walk = RandomWalk.from_settings(RandomWalkSettings(), mean=(), device=None)
    cams = walk.refine_cams(golden["cam"], golden["edge"][0], tuple(size.tolist()))
    np.testing.assert_allclose(cams[:, ::3, ::3], golden["rw_up_normalised"], atol=1e-4)
    labels = np.array([0, *(golden["keys"] + 1)])[np.concatenate([np.full((1, 60, 80), 0.25), cams]).argmax(0)]
    assert np.count_nonzero(labels != golden["sem_seg"]) <= 2


def test_each_class_has_its_own_maximum_where_asked_for() -> None:
    maps = torch.tensor([[[[1.0]], [[0.1]], [[0.0]]]])
    assert enlarged(maps, (4, 4), per_class=False).amax((2, 3))[0].tolist() == pytest.approx([1, 0.1, 0])
    assert enlarged(maps, (4, 4), per_class=True).amax((2, 3))[0].tolist() == pytest.approx([1, 1, 0])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_boundaries_are_walked_along(value: float) -> None:
    """No boundary anywhere: a mean over the neighbourhood; boundaries everywhere: nothing moves, and nothing is left."""
    maps = torch.zeros(1, 1, 12, 12)
    maps[0, 0, 6, 6] = 1
    walked = random_walk(maps, torch.full((1, 1, 12, 12), value))
    assert torch.isfinite(walked).all() and (walked >= -1e-6).all()
    assert torch.isfinite(enlarged(walked, (47, 46), per_class=False)).all()
    if value == 1:
        assert (walked == 0).all()


def test_wrong_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="do not lie on boundaries"):
        random_walk(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 6))
    with pytest.raises(ValueError, match="NaN"):
        random_walk(torch.full((1, 1, 5, 5), float("nan")), torch.zeros(1, 1, 5, 5))


def test_it_comes_first_and_not_to_segmentation_networks() -> None:
    cfg = load_config("configs/irn_voc.yaml")
    walk, others = build_cam_refiner(["random_walk", "dense_crf"], cfg)
    assert isinstance(walk, RandomWalk) and others == ("dense_crf",)
    assert walk.settings() == {"beta": 10, "steps": 256, "radius": 5, "maximum": "all"}
    assert build_cam_refiner("dense_crf", cfg) == (None, ("dense_crf",))
    assert build_cam_refiner("none", cfg) == (None, ())
    with pytest.raises(ValueError, match="name it first"):
        build_refiner(["dense_crf", "random_walk"], cfg)

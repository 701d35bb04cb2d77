"""Masks of single objects, against IRNet's, and their average precision."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.irn_schema import InstanceConfig
from models.refiners.random_walk import RandomWalk, RandomWalkSettings
from utils.cams.instances import centres, cluster_map, find_instances, read_instances, run_lengths_of, write_instances
from utils.errors import UserError
from utils.evaluation.instances import Matches, match_instances, read_truth
from utils.prepare.coco import paint_runs

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "crt" / "ins_seg_label.npz")
RULE = InstanceConfig()
WALK = RandomWalk.from_settings(RandomWalkSettings(), mean=(), device=None)


def test_published_centres_and_clusters() -> None:
    places = centres(GOLDEN["displacement"], RULE.steps)
    np.testing.assert_array_equal(places, GOLDEN["centroids"])
    clusters = cluster_map(GOLDEN["displacement"], places, RULE.still)
    np.testing.assert_array_equal(clusters, GOLDEN["instance_map"].argmax(axis=0))


def test_published_instances(tmp_path: Path) -> None:
    count, height, width = GOLDEN["mask_shape"].tolist()
    fields = (GOLDEN["edge"][0], GOLDEN["displacement"])
    found = find_instances(GOLDEN["keys"].tolist(), GOLDEN["cam"], *fields, (height, width), RULE, WALK)
    np.testing.assert_allclose(found.score, GOLDEN["score"], atol=1e-3)
    np.testing.assert_array_equal(found.classes, GOLDEN["cls"])
    expected = np.unpackbits(GOLDEN["masks"], axis=-1)[:, :, :width].astype(bool)
    assert found.mask.shape == (count, height, width)
    assert (found.mask != expected).sum(axis=(1, 2)).max() <= 2
    np.testing.assert_allclose(found.mask.sum(axis=(1, 2)), GOLDEN["mask_area"], atol=2)
    write_instances(tmp_path / "a.npz", found)
    again = read_instances(tmp_path / "a.npz")
    assert np.array_equal(again.mask, found.mask) and np.array_equal(again.score, found.score)
    none = find_instances([], GOLDEN["cam"], *fields, (height, width), RULE, WALK)
    assert none.mask.shape == (0, height, width)


def test_run_lengths_are_coco_s() -> None:
    for mask in (np.zeros((3, 2), bool), np.ones((3, 2), bool), np.array([[1, 0], [0, 1], [0, 0]], bool)):
        canvas = np.zeros(mask.size, np.uint8)
        paint_runs(canvas, run_lengths_of(mask), 1)
        assert np.array_equal(canvas.reshape(mask.shape, order="F"), mask)
    assert run_lengths_of(np.ones((3, 2), bool)) == [0, 6]


def _masks(*columns: slice) -> np.ndarray:
    masks = np.zeros((len(columns), 4, 10), bool)
    for mask, one in zip(masks, columns, strict=True):
        mask[:, one] = True
    return masks


def test_average_precision_by_hand() -> None:
    """Two objects. Right, doubled, wrong, right: precision 1, 1/2, 1/3, 1/2 at recall 1/2, 1/2, 1/2, 1."""
    truth = _masks(slice(0, 4), slice(5, 9))
    predicted = _masks(slice(0, 4), slice(0, 3), slice(4, 5), slice(5, 8))
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    found = match_instances(predicted, np.array([2, 2, 2, 2]), scores, truth, [2, 2])
    assert [right for _, right in found.scores[2]] == [True, False, False, True]
    total = Matches()
    total.add(found)
    assert total.average_precision() == {2: pytest.approx(0.5 * 1 + 0.5 * 0.5)}
    # A second image with an object nobody found, of another class; predictions of a class without objects do not count.
    total.add(match_instances(predicted[:1], np.array([0]), scores[:1], truth[:1], [7]))
    assert total.average_precision() == {2: pytest.approx(0.75), 7: 0.0}


def test_truth_of_voc(tmp_path: Path) -> None:
    objects, classes = np.zeros((4, 10), np.uint8), np.zeros((4, 10), np.uint8)
    objects[:, :3], objects[:, 5:7], objects[:, 9] = 1, 2, 255
    classes[:, :3], classes[:, 5:7], classes[:, 9] = 15, 4, 255
    Image.fromarray(objects).save(tmp_path / "a.png")
    Image.fromarray(classes).save(tmp_path / "classes.png")
    found = read_truth(tmp_path, "a", (10, 4), tmp_path / "classes.png", 20)
    assert found is not None
    assert found[1] == [14, 3] and found[0].sum(axis=(1, 2)).tolist() == [12, 8]
    assert read_truth(tmp_path, "b", (10, 4), tmp_path / "classes.png", 20) is None
    Image.fromarray(np.zeros((4, 10), np.uint8)).save(tmp_path / "classes.png")
    with pytest.raises(UserError, match="has no class in"):
        read_truth(tmp_path, "a", (10, 4), tmp_path / "classes.png", 20)


def test_truth_of_sbd(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    objects = np.zeros((4, 10), np.uint8)
    objects[:, :3], objects[:, 5:7] = 1, 2
    content = {"Segmentation": objects, "Categories": np.array([[15], [4]], np.uint8)}
    scipy_io.savemat(tmp_path / "a.mat", {"GTinst": content})
    found = read_truth(tmp_path, "a", (10, 4), Path("none"), 20)
    assert found is not None and found[1] == [14, 3] and found[0].sum(axis=(1, 2)).tolist() == [12, 8]
    with pytest.raises(UserError, match="expected"):
        read_truth(tmp_path, "a", (11, 4), Path("none"), 20)
    (tmp_path / "a.mat").write_bytes(b"no file")
    with pytest.raises(UserError, match="is no SBD instance file"):
        read_truth(tmp_path, "a", (10, 4), Path("none"), 20)

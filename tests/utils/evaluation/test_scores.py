import json

import numpy as np

from tests.evaluation_set import GOLDEN, golden, golden_classes
from utils.cams.sweep import JointHistogram
from utils.data.classes import label_names
from utils.evaluation.metrics import score
from utils.evaluation.scores import mean_errors, published_text, score_table, scores_to_dict

CONFUSION = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]], np.int64)


def test_published_text_equals_the_published_file() -> None:
    arrays = golden()
    histogram = JointHistogram(20)
    for i, classes in enumerate(golden_classes(arrays, "voc12")):
        histogram.add(arrays[f"voc12_gt_{i}"], classes, [arrays[f"voc12_att_{i}_{c}"] for c in classes])
    thresholds = arrays["voc12_thresholds"].tolist()
    text = published_text(thresholds, [histogram.confusion(t) for t in thresholds])
    assert text == (GOLDEN / "evaluate_result_voc.txt").read_text()


def test_dictionary_is_valid_json_with_null_for_absent_classes() -> None:
    content = scores_to_dict(score(CONFUSION), label_names(["cat", "dog"]))
    assert json.loads(json.dumps(content, allow_nan=False)) == {
        "mean_iou": (6 / 9 + 3 / 6) / 2,
        "iou": {"background": 6 / 9, "cat": 0.5, "dog": None},
        "precision": {"background": 6 / 7, "cat": 0.6, "dog": None},
        "recall": {"background": 0.75, "cat": 0.75, "dog": None},
    }


def test_table_has_a_line_per_label_and_the_means() -> None:
    lines = score_table(score(CONFUSION), label_names(["cat", "dog"])).splitlines()
    assert [line.split() for line in lines] == [
        ["class", "IoU", "precision", "recall"],
        ["background", "66.7", "85.7", "75.0"],
        ["cat", "50.0", "60.0", "75.0"],
        ["dog", "-", "-", "-"],
        ["mean", "58.3", "72.9", "75.0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_mean_errors_leave_background_and_absent_classes_out() -> None:
    # Class 1: 3 right, 1 wrongly given, 2 missed; class 2 never occurs.
    confusion = np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0]], np.int64)
    errors = mean_errors(np.stack([confusion, np.zeros_like(confusion)]))
    assert errors == {"false_positives": [1 / 6, None], "false_negatives": [2 / 6, None]}

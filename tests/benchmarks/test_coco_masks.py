"""The COCO mask benchmark as a program: both versions write the same masks, and the figures are printed."""

import pytest

pytest.importorskip("pycocotools")

from benchmarks.coco_masks import main, measure_masks


def test_plain_and_project_masks_agree() -> None:
    assert measure_masks(images=6, repeat=1)[0].endswith(", 0 pixels differ")


def test_the_program_prints_speed_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--images", "2", "--repeat", "1", "--annotations", "30"])
    out = capsys.readouterr().out
    assert "ratio" in out
    assert "reading 30 annotations" in out

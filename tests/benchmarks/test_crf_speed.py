import pytest
import torch

from benchmarks.crf_speed import main, run
from models.refiners import dense_crf as crf_pydensecrf

pytestmark = pytest.mark.skipif(not crf_pydensecrf.is_importable(), reason="pydensecrf2 is not installed")


def test_versions_agree() -> None:
    rows = list(run([4], (40, 30), device=torch.device("cpu"), batch=2, repeat=1))
    assert [row.difference.split(", ")[1] for row in rows] == ["100.0000% equal labels"] * 3
    assert float(rows[0].difference.split(",")[0]) <= 1e-3


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--size", "40"], ["--classes", "a"], ["--repeat", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert wrong[0] in capsys.readouterr().err

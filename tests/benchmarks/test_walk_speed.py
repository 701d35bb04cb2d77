import pytest
import torch

from benchmarks.measure import Row
from benchmarks.walk_speed import Case, main, run

CPU = torch.device("cpu")


def test_versions_agree_and_ours_keeps_no_matrix() -> None:
    """The matrix of these 1200 cells has 5.5 MiB, and squaring holds at least two; ours 34 weights a cell, 0.2 MiB."""
    row, memory = run(Case(160, 120, 2), device=CPU, repeat=1, squarings=8, with_plain=True)
    assert isinstance(row, Row) and float(row.difference) <= 3e-5
    plain, _, mine = memory.partition("plain ")[2].partition(" MiB, ours ")
    assert float(plain) > 10 and float(mine.partition(" ")[0]) < 5


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--case", "40x30"], ["--case", "axbxc"], ["--repeat", "0"], ["--squarings", "9"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert wrong[0] in capsys.readouterr().err

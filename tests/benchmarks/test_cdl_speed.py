"""The benchmark of what CDL adds to a step: both sides do the same."""

import pytest

from benchmarks.cdl_speed import main, run


def test_plain_and_project_code_agree() -> None:
    (row,) = run("tiny", repeat=1)
    assert float(row.difference.split()[0]) < 1e-5
    assert row.difference.endswith(", 0 labels")
    assert row.timing.plain > 0


def test_the_program_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--repeat", "1"])
    assert "| refresh and losses of CDL-b, 33 px" in capsys.readouterr().out

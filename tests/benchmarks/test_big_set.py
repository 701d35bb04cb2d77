"""The big-set benchmark as a program, at a small size: every part does its work and the figures are printed."""

from pathlib import Path

import pytest

from benchmarks.big_set import PARTS, make_set, run_part, table


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path, 30)
    run_part(part, tmp_path, 1)
    assert '"seconds"' in capsys.readouterr().out.splitlines()[-1]


def test_table_compares_times_per_entry() -> None:
    sizes = {
        n: {"seconds": 1.0, "processor": n * factor, "peak": 9.0, "before": 8.0, "worker": 7.0}
        for n, factor in ((10, 0.1), (100, 0.2))
    }
    lines = table({"sweep": sizes}).splitlines()
    assert "| 1.00x | 9 | 8 | 7 |" in lines[2]
    assert "| 2.00x |" in lines[3]

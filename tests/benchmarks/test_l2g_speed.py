import re

import pytest

from benchmarks.l2g_speed import PARTS, main, run

# Largest difference each part may show, in the unit it prints (float32 rounding; grey levels; pixels).
TOLERANCES = {"step": 2e-3, "cam": 1, "target": 1e-6, "sample": 1e-6, "sweep": 0, "gen_gt": 0}


@pytest.mark.parametrize("part", PARTS)
def test_plain_and_project_code_agree(part: str) -> None:
    rows = run("tiny", [part], repeat=1)
    assert rows
    for row in rows:
        differences = [float(number) for number in re.findall(r"[\d.]+(?:e[+-]\d+)?(?= |$)", row.difference)]
        assert differences, row
        assert max(differences) <= TOLERANCES[part], row
        assert row.timing.plain > 0
        assert row.timing.ours > 0


def test_the_program_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--only", "target", "--repeat", "2"])
    out = capsys.readouterr().out
    assert "| what | plain | ours | ratio |" in out
    assert "torch" in out


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--only", "step,nap"])
    assert error.value.code == 2
    assert "'nap'" in capsys.readouterr().err

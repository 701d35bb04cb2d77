import pytest

from benchmarks.deeplab_speed import main, run


def test_plain_and_project_code_agree() -> None:
    sample, step, tested = run("tiny", repeat=1)
    assert sample.difference == "0.0e+00 grey levels, 0 labels"
    assert float(step.difference.split()[0]) < 1e-4
    assert int(tested.difference.split()[0]) <= 2
    assert step.timing.plain > 0
    assert tested.timing.ours > 0


def test_the_program_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--repeat", "1"])
    assert "| training step, batch 2, 33 px" in capsys.readouterr().out

import pytest

from benchmarks.norms_speed import main


def test_a_row_says_what_is_kept_and_that_gradients_agree(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--case", "resnet50x33x1", "--repeat", "1"])
    row = next(line for line in capsys.readouterr().out.splitlines() if "resnet50, 1 x 33 px, fp32" in line)
    kept, ours = (int(word) for word in row.split("kept ")[1].split(" MiB")[0].split(" and "))
    assert 0 < ours < kept
    assert float(row.split(" of the largest gradient")[0].split("|")[-1]) < 1e-4

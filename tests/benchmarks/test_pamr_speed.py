import pytest
import torch

from benchmarks.pamr_speed import Case, main, run


def test_versions_agree() -> None:
    row, memory = run(Case(60, 45, 4, 2), device=torch.device("cpu"), repeat=1)
    assert row is not None and float(row.difference) <= 1e-5
    assert memory.startswith("60x45, 4 classes, batch 2: plain ")


def test_no_copy_of_the_mask_for_each_neighbour() -> None:
    """48 copies of these masks are 315 MiB, weights and two copies of the masks 28 MiB."""
    _, memory = run(Case(320, 240, 21, 1), device=torch.device("cpu"), repeat=1, with_plain=False)
    used = float(memory.rpartition("ours ")[2].removesuffix(" MiB"))
    assert 20 < used < 315 / 5


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--case", "40x30"], ["--case", "axbxcxd"], ["--repeat", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert wrong[0] in capsys.readouterr().err

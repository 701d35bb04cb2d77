"""The table of presets: a row of either stage."""

from pathlib import Path

import pytest

from benchmarks.estimates import main
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("forgets_tensors")
CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_row_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    own = "method: cam\ndata: {train_list: gone.txt}\nmodel: {backbone: vgg16}\ntrain: {classify_epochs: 0}\n"
    first.write_text(f"base: {CONFIGS}/l2g_demo.yaml\n{own}")
    second.write_text(f"base: {CONFIGS}/demo_dplv2.yaml\nimage: {{size: {{train: 65}}}}\n")
    main([str(first), str(second)])
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| `first`", "| `second`"]
    assert {row.count("|") for row in (head, line, *rows)} == {11}
    assert rows[0].endswith("| – | – | – | – |")  # hours of a list that is not there
    assert "–" not in rows[1]
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read"):
        main([str(tmp_path / "gone.yaml")])

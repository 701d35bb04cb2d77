"""Put the measured scores of runs side by side, as Markdown tables: mIoU, and a second one of others (boxes).

    python -m scripts.compare "plain CAM=runs/demo_plain" "L2G=runs/demo_l2g"
    python -m scripts.compare "plain CAM=runs/a_seed0,runs/a_seed1,runs/a_seed2" ... --out table.md
    python -m scripts.compare "L2G=runs/exp_voc" --expected l2g_voc       # published figures beside measured ones
    python -m scripts.compare runs/a_seed0 runs/a_seed1 runs/b_seed0      # runs of equal settings but for the seed: one row
    python -m scripts.compare "L2G=runs/l2g" "masks=runs/full" --ceiling masks      # each score also in percent of that row's

Several runs (seeds) of a row give mean ± standard deviation. Columns are the scores and training times of the stage cards
found in the runs' folders, whatever programs wrote them. Of boxes, the second table has a column for each way weights were
picked (boxes.picked): last epoch, on held-out images, on the images that are scored, which is marked.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, run_program
from utils.files import write_text_atomic

EXPECTED = Path(__file__).parents[1] / "docs" / "expected.yaml"


def main(argv: list[str]) -> None:
    """Parse the command line, print the table and write it to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="[LABEL=]RUN[,RUN...]", help="a row with its label, or a run's folder")
    parser.add_argument("--out", default="", help="also write the table to this file")
    parser.add_argument("--expected", default="", metavar="NAME", help=f"also what {EXPECTED.name} says was reached, by stage")
    parser.add_argument("--ceiling", default="", metavar="LABEL", help="others also in percent of this row (full supervision)")
    arguments = parser.parse_args(argv)
    text = run(arguments.rows, arguments.expected, arguments.ceiling)
    print(text)
    if arguments.out:
        write_text_atomic(Path(arguments.out), text + "\n")


def run(rows: list[str], expected: str = "", ceiling: str = "") -> str:
    """Return a Markdown table of `LABEL=RUN[,RUN...]` rows and of bare run folders, which are grouped by their settings.

    With `expected`, a name of docs/expected.yaml, a second table has its figures beside those of each row. With `ceiling`, the
    label of a row, the others' scores are also given in percent of it, at the stages that it has.

    Raises:
        UserError: for a folder that is not there or has no scores, a damaged card, or a ceiling that is no row.
    """
    from utils.report.groups import Group, expected_table, further_table, group_runs, table
    from utils.report.run import read_run

    groups, bare = [], []
    for text in rows:
        label, separator, folders = text.partition("=")
        if not separator or Path(text).is_dir():
            bare.append(Path(text))
        else:
            groups.append(Group(label, [read_run(Path(folder)) for folder in folders.split(",")]))
    groups += group_runs([read_run(folder) for folder in bare])
    for one in (one for group in groups for one in group.runs if not one.scores()):
        raise UserError(f"{one.folder} holds no stage card with a score; run scripts.evaluate_cams, _boxes or gen_gt first")
    labels = [group.label for group in groups]
    if ceiling and ceiling not in labels:
        raise UserError(f"--ceiling is {ceiling}, expected the label of a row: {', '.join(labels)}")
    further = expected_table(groups, _read_expected(expected)) if expected else ""
    return "\n\n".join(filter(None, (table(groups, ceiling), further_table(groups), further)))


def _read_expected(name: str) -> list[dict[str, Any]]:
    known: dict[str, list[dict[str, Any]]] = yaml.safe_load(EXPECTED.read_text(encoding="utf-8"))
    if name not in known:
        raise UserError(f"--expected is {name}, expected one of {', '.join(known)} ({EXPECTED})")
    return known[name]


if __name__ == "__main__":
    run_program(main)

"""Everything that can go wrong, for every program: what was tried, and what was not met as it should be.

    python -m benchmarks.faults                                       # all of it: many hours, 30 to 60 faults a minute
    python -m benchmarks.faults --each 3 --seed 1                     # three of every kind for every program
    python -m benchmarks.faults --methods l2g --kinds weights,yaml    # some of it
    python -m benchmarks.faults --only '^deeplab test: .*NaN'         # what a regular expression finds
    python -m benchmarks.faults --list                                # names only

Prints a table (a row a program, a column a kind of fault) and each fault that was met wrongly; leaves with exit code 1 if there
is one. What must hold is in docs/reliability.md; the faults are in tests/faults/.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.faults.all_faults import all_faults
from tests.faults.mill import Ended, Fault, Mill, Verdict
from tests.faults.programs import build_world, methods
from utils.runtime.log import format_seconds, progress


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the faults and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(methods()), help="methods of models/ (default %(default)s)")
    parser.add_argument("--kinds", default="", help="kinds of faults, default all")
    parser.add_argument("--only", default="", metavar="REGEX", help="only faults whose '<program>: <kind>: <name>' it finds")
    parser.add_argument("--each", type=int, default=0, metavar="N", help="at most N of each kind for each program; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="which N (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="print their names and leave")
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="faults_"))
    folder.chmod(0o755)
    try:
        names = arguments.methods.split(",")
        world = build_world(folder / "world", names)
        kinds = arguments.kinds.split(",") if arguments.kinds else None
        found = [fault for fault in all_faults(world, names) if kinds is None or fault.kind in kinds]
        found = [fault for fault in found if re.search(arguments.only, str(fault))]
        found = sample(found, arguments.each, arguments.seed) if arguments.each else found
        if arguments.list:
            print("\n".join(map(str, found)))
            return 0
        return _run(Mill(world), found, arguments.workers)
    finally:
        shutil.rmtree(folder)


def sample(faults: Sequence[Fault], each: int, seed: int) -> list[Fault]:
    """Return `each` faults of every kind that every program meets, drawn by `seed`, in the order of `faults`."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, fault in enumerate(faults):
        groups.setdefault((fault.program.name, fault.kind), []).append(number)
    draw = random.Random(seed)
    return [faults[number] for group in groups.values() for number in sorted(draw.sample(group, min(each, len(group))))]


def _run(mill: Mill, found: list[Fault], workers: int) -> int:
    started, verdicts = time.monotonic(), []
    with ThreadPoolExecutor(workers) as pool:
        for verdict in progress(pool.map(partial(_grind, mill), found), len(found), "faults"):
            verdicts.append(verdict)
            if verdict.wrong:
                print(f"wrong: {verdict.fault}: {verdict.wrong}", flush=True)
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    print(table(verdicts))
    print(f"{len(verdicts)} faults in {format_seconds(time.monotonic() - started)}: {len(wrong)} met wrongly")
    for verdict in wrong:
        print(f"* {verdict.fault}: {verdict.wrong}")
    return 1 if wrong else 0


def _grind(mill: Mill, fault: Fault) -> Verdict:
    try:
        return mill.grind(fault)
    except Exception as error:  # of the mill itself: the other faults are tried all the same
        return Verdict(fault, f"could not be tried ({type(error).__name__}: {error})", Ended(None, "", "", 0.0))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a Markdown table: a row a program, for each kind how many were tried, and how many of them met wrongly."""
    programs = list(dict.fromkeys(verdict.fault.program.name for verdict in verdicts))
    kinds = list(dict.fromkeys(verdict.fault.kind for verdict in verdicts))
    tried = Counter((verdict.fault.program.name, verdict.fault.kind) for verdict in verdicts)
    wrong = Counter((verdict.fault.program.name, verdict.fault.kind) for verdict in verdicts if verdict.wrong)

    def cell(keys: list[tuple[str, str]]) -> str:
        count, bad = sum(tried[key] for key in keys), sum(wrong[key] for key in keys)
        return f"{count} ({bad} wrong)" if bad else str(count or "")

    lines = [["program", *kinds, "all"], ["---"] * (len(kinds) + 2)]
    for name in programs:
        lines.append([name, *(cell([(name, kind)]) for kind in kinds), cell([(name, kind) for kind in kinds])])
    every = [(name, kind) for name in programs for kind in kinds]
    lines.append(["all", *(cell([(name, kind) for name in programs]) for kind in kinds), cell(every)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

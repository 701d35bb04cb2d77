"""A few of the faults for every program, and that the mill sees what is wrong; `python -m benchmarks.faults` tries all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.faults import table
from deeplab.settings import parse_args as parse_deeplab
from scripts.build import parse_args
from tests.faults.all_faults import all_faults, method_of
from tests.faults.mill import REFUSED, SAME, SOUND, Ended, Fault, Mill, Program, Verdict
from tests.faults.programs import build_world, methods, of_method, programs
from tests.faults.settings import keys, schema_of, wrong_values
from utils.errors import UserError

METHODS = ("l2g", "wsfcn")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("faults") / "world", METHODS)


def _sample(world: Path) -> Iterator[Fault]:
    """Yield one fault a command: of its files and of the machine by turns, and another one for each."""
    kinds = {"disk full", "descriptors", "file system", "output", "rights", "kill -9, again", "stopped, again", "again"}
    found = [fault for fault in all_faults(world, METHODS) if fault.kind not in ("settings", "ends of ranges")]
    for number, program in enumerate(_commands(world)):
        own = [fault for fault in found if fault.program.name == program.name]
        group = [fault for fault in own if (fault.kind in kinds) == bool(number % 2)] or own
        yield group[number * 7 % len(group)]


def _commands(world: Path) -> list[Program]:
    """Return one program for each command there is."""
    of = {(p.module, p.arguments[0] if p.module == "deeplab.__main__" else ""): p for p in reversed(programs(world, METHODS))}
    return list(of.values())


@pytest.mark.timeout(600)
def test_programs_meet_some_of_the_faults(world: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(Mill(world).grind, _sample(world)))
    assert {verdict.fault.program.module for verdict in verdicts} == {program.module for program in programs(world, METHODS)}
    wrong = [f"{verdict.fault}: {verdict.wrong}" for verdict in verdicts if verdict.wrong]
    assert not wrong, "\n".join(wrong)


def test_every_key_is_refused_what_it_cannot_take(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth key, with a wrong value of another sort each; all of them in the benchmark."""
    monkeypatch.chdir(world)
    accepted, unnamed, tried = [], [], 0
    checked = [programs(world, ["l2g"])[0], *(p for p in programs(world, ["l2g"]) if p.name == "deeplab train")]
    for program in checked:
        parse = parse_args if method_of(program, METHODS) else parse_deeplab
        options = program.arguments[program.arguments.index(next(a for a in program.arguments if a.startswith("--config"))) :]
        for number, key in enumerate(list(keys(schema_of(program, method_of(program, METHODS))))[::5]):
            if values := wrong_values(key):
                tried += 1
                argument = f"{key.name}={values[number % len(values)]}"
                try:
                    parse([*options, argument], "")
                except UserError as error:
                    if key.name not in str(error):
                        unnamed.append((argument, str(error)))
                else:
                    accepted.append(argument)
    assert tried > 40
    assert (accepted, unnamed) == ([], [])


def test_every_method_of_the_table_goes_through_the_mill(world: Path) -> None:
    assert {"l2g", "cam", "wsfcn"} <= methods().keys()
    for name in METHODS:
        assert {program.module for program in of_method(world, name)} >= {
            "scripts.train",
            "scripts.make_cams",
            "scripts.gen_gt",
        }


WAYS = {
    "hangs": "hangs", "traceback": "traceback", "lost": "lost", "changed": "changed", "half written": "half written",
    "temporary": "half written", "exit code": "exit code 3", "killed": "exit code -6", "two sentences": "2 sentences",
    "no sentence": "0 sentences", "long": "a sentence of", "unclear": "no sentence of ours", "other name": "names none of",
    "accepted": "accepted silently", "other results": "silently other results", "right": "",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_mill_sees_what_is_wrong(tmp_path: Path, way: str) -> None:
    (tmp_path / "input.txt").write_text("text")
    program = Program("bad", "tests.faults.bad_programs", ("accepted",), {"input.txt": "text"})
    expect = SAME if way == "other results" else REFUSED
    fault = Fault("text", way, program, expect=expect, names=("input.txt",))
    bad = Program("bad", "tests.faults.bad_programs", (way,), {"input.txt": "text"})
    mill = Mill(tmp_path, longest=3.0)
    mill.sound(program)
    verdict = mill.grind(Fault("text", way, bad, expect=expect, names=fault.names))
    assert verdict.wrong.startswith(WAYS[way]) if WAYS[way] else verdict.wrong == "", verdict


def test_the_table_counts_what_is_wrong() -> None:
    program = Program("gen_gt", "scripts.gen_gt", ())
    ended = Ended(0, "", "", 0.0)
    verdicts = [Verdict(Fault("mask", str(n), program, expect=SOUND), "" if n else "lost", ended) for n in range(3)]
    assert table(verdicts).splitlines()[2:] == ["| gen_gt | 3 (1 wrong) | 3 (1 wrong) |", "| all | 3 (1 wrong) | 3 (1 wrong) |"]

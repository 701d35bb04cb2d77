"""All faults of all programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.files import file_faults
from tests.faults.machine import machine_faults
from tests.faults.mill import Fault, Program
from tests.faults.programs import programs
from tests.faults.settings import extreme_settings, keys, schema_of, wrong_arguments, wrong_settings


def all_faults(world: Path, names: Sequence[str]) -> Iterator[Fault]:
    """Yield the faults of all programs on a world built with the methods `names`.

    A configuration is checked by one function for all programs, before they do anything: so every wrong setting is tried in one
    of them, and the ends of its range in one that reads it.
    """
    tried, ends = set[str](), set[str]()
    for program in programs(world, names):
        yield from file_faults(program)
        yield from machine_faults(program)
        if program.settings:
            method = method_of(program, names)
            prefix = "" if method else "deeplab "
            for key in keys(schema_of(program, method)):
                if prefix + key.name not in tried:
                    tried.add(prefix + key.name)
                    yield from wrong_settings(program, key)
                section = key.name.rpartition(".")[0].partition(".")[0]
                if section in program.settings and prefix + key.name not in ends:
                    ends.add(prefix + key.name)
                    yield from extreme_settings(program, key)
            if prefix not in tried:
                tried.add(prefix)
                yield from wrong_arguments(program)


def method_of(program: Program, names: Sequence[str]) -> str:
    """Return the method whose configuration a program is given; empty for the segmentation stage."""
    return next((name for name in names if f"{name}.yaml" in program.arguments), "")

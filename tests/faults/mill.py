"""The mill: a program runs on a spoilt copy of a sound folder, and what it did is judged.

Each run is a process of its own, forked from a server that has loaded torch and the programs once, so that it starts in a tenth
of a second and not in five. Relative paths of a program start at the copy. What must hold is `judge`.
"""

import importlib
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.faults.outcome import digests, is_temporary, is_whole, results, within
from utils.errors import run_program

ROOT = Path(__file__).resolve().parents[2]
# What is inherited by the server and all that it forks.
os.environ.setdefault("OMP_NUM_THREADS", "1")
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.preloaded"])
# Starting a process asks all others how they ended, which two threads may not do at a time.
_STARTING = threading.Lock()

# A run that takes longer hangs, seconds.
LONGEST = 120.0
# A sentence is no page.
MOST_LETTERS = 900
# What a fault may lead to.
REFUSED, SOUND, SAME, WHOLE, STOPPED = "refused", "sound", "same", "whole", "stopped"


@dataclass(frozen=True)
class Program:
    """A program with its arguments, as it is put through the mill.

    Attributes:
        name: for tables.
        module: what follows `python -m`.
        arguments: its command line; paths start at the world's folder.
        reads: file or folder (of the world) -> its kind, a key of `tests.faults.files.DAMAGES`.
        writes: files and folders it may change; all others must stay as they are.
        settings: sections of its configuration that it reads; empty: it has none.
        rerun: what comes of the same command when it is repeated, as `Fault.expect`; again: further arguments it then needs.
        reports: it finds faults, and lists them on its output.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    reads: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ("out",)
    settings: tuple[str, ...] = ()
    rerun: str = SOUND
    again: tuple[str, ...] = ()
    reports: bool = False


def _nothing(folder: Path) -> None:
    """Spoil nothing."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong for a program.

    Attributes:
        kind: row of the table it counts in, e.g. "weights".
        name: what it is.
        program: who meets it.
        spoil: changes the copy of the world; gets its folder.
        arguments: added to the program's.
        conditions: called in the process before the program starts, see `tests.faults.machine`.
        expect: REFUSED: exit code 2 and one sentence; SOUND: the outputs of a sound run; SAME: either; WHOLE: refused, or any
            outputs that are whole (the damage cannot be told from good data, or the setting is another one); STOPPED: ended by
            a signal.
        names: words of which the sentence must hold at least one.
        before: it first runs under these conditions, and then again without (kill and rerun); again: further arguments then.
    """

    kind: str
    name: str
    program: Program
    spoil: Callable[[Path], None] = _nothing
    arguments: tuple[str, ...] = ()
    conditions: tuple[Callable[[], None], ...] = ()
    expect: str = REFUSED
    names: tuple[str, ...] = ()
    before: tuple[Callable[[], None], ...] = ()
    again: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.program.name}: {self.kind}: {self.name}"


@dataclass(frozen=True)
class Ended:
    """How a process ended; `code` is None where it had to be killed, negative for a signal."""

    code: int | None
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """`wrong` says what did not hold; empty: all did."""

    fault: Fault
    wrong: str
    ended: Ended


class Mill:
    """Runs faults on copies of a sound world.

    Args:
        world: folder that holds what the programs read; it is only read.
        longest: a run that takes more seconds hangs.
    """

    def __init__(self, world: Path, longest: float = LONGEST) -> None:
        self.world, self.longest = world, longest
        self._sound: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def sound(self, program: Program) -> dict[str, str]:
        """Return what the program writes where nothing is wrong: path -> digest.

        Raises:
            RuntimeError: when it fails.
        """
        with self._lock:
            if program.name not in self._sound:
                with _copied(self.world, program) as copy:
                    ended = run(program, copy, longest=self.longest)
                    if ended.code != 0:
                        raise RuntimeError(f"{program.name} fails on sound input ({ended.code}):\n{ended.err[-3000:]}")
                    self._sound[program.name] = results(copy, program.writes)
            return self._sound[program.name]

    def grind(self, fault: Fault) -> Verdict:
        """Run one fault and judge it."""
        program = replace(fault.program, arguments=(*fault.program.arguments, *fault.arguments))
        sound = self.sound(fault.program)
        with _copied(self.world, fault.program) as copy:
            fault.spoil(copy)
            there = digests(copy)
            ended = run(program, copy, fault.before or fault.conditions, longest=self.longest)
            wrong = "" if not fault.before else _stop_wrong(ended)
            if fault.before and not wrong:
                program = replace(program, arguments=(*program.arguments, *fault.again))
                ended = run(program, copy, fault.conditions, longest=self.longest)
            wrong = wrong or judge(fault, ended, there, copy, sound)
        return Verdict(fault, wrong, ended)


class _copied:
    """A copy of what a program needs of a world, which anybody may look into, gone at the end."""

    def __init__(self, world: Path, program: Program) -> None:
        self.world, self.program = world, program

    def __enter__(self) -> Path:
        self.parent = Path(tempfile.mkdtemp(prefix="fault_"))
        self.parent.chmod(0o755)
        copy = self.parent / "w"
        copy.mkdir()
        named = {word for text in (*self.program.arguments, *self.program.reads, *self.program.writes, "data")
                 for word in re.split(r"[=,\[\]]", text)}  # fmt: skip
        for name in sorted(name for name in named if name and (self.world / name).exists()):
            if not (copy / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                isdir = (self.world / name).is_dir()
                (partial(shutil.copytree, symlinks=True) if isdir else shutil.copy2)(self.world / name, copy / name)
        return copy

    def __exit__(self, *_: object) -> None:
        for folder, _folders, _files in os.walk(self.parent):
            Path(folder).chmod(0o755)
        shutil.rmtree(self.parent)


def run(program: Program, folder: Path, conditions: Sequence[Callable[[], None]] = (), *, longest: float = LONGEST) -> Ended:
    """Run a program in a process of its own, with `folder` as working directory, for at most `longest` seconds."""
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    writers = [writer for _, writer in pipes]
    process = CONTEXT.Process(target=_work, args=(program.module, program.arguments, str(folder), tuple(conditions), *writers))
    started = time.monotonic()
    with _STARTING:
        process.start()
    for writer in writers:
        writer.close()
    out, err = _read_all([reader for reader, _ in pipes], started + longest)
    ended = bool(wait([process.sentinel], max(0.1, started + longest - time.monotonic())))
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):  # what hangs, and what outlived the program
        os.killpg(process.pid, signal.SIGKILL)
    wait([process.sentinel])
    with _STARTING:
        code = process.exitcode if ended else None
    return Ended(code, out, err, time.monotonic() - started)


def _read_all(readers: list[Connection], deadline: float) -> tuple[str, ...]:
    """Return what comes through pipes until all have ended, or the deadline (of `time.monotonic`)."""
    texts = {reader.fileno(): b"" for reader in readers}
    waiting = set(texts)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor in select.select(waiting, [], [], left)[0]:
            part = os.read(descriptor, 1 << 16)
            texts[descriptor] += part
            if not part:
                waiting.discard(descriptor)
    for reader in readers:
        reader.close()
    return tuple(text.decode("utf-8", "replace") for text in texts.values())


def _work(
    module: str,
    arguments: tuple[str, ...],
    folder: str,
    conditions: tuple[Callable[[], None], ...],
    out: Connection,
    err: Connection,
) -> None:
    """Be the program: its folder, its output, its exit code."""
    os.setsid()
    set_start_method(None, force=True)  # as a process has it that Python started
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    os.chdir(folder)
    sys.argv = [module, *arguments]
    code: Any = 0
    try:
        for condition in conditions:
            condition()
        run_program(importlib.import_module(module).main)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    with suppress(OSError):
        sys.stdout.flush()
    for after in AFTER:
        after()
    os._exit(code)


# What a condition wants done at the end of the process.
AFTER: list[Callable[[], None]] = []


def judge(fault: Fault, ended: Ended, there: Mapping[str, str], folder: Path, sound: Mapping[str, str]) -> str:
    """Return what is wrong with how a program met a fault; nothing where all is right.

    Args:
        fault: what went wrong for it.
        ended: how it ended.
        there: path -> digest of all files before.
        folder: the copy after.
        sound: what it writes where nothing is wrong.
    """
    if ended.code is None:
        return f"hangs (more than {ended.seconds:.0f} s)"
    if "Traceback (most recent call last)" in ended.err + ended.out:
        return f"traceback, ends in: {ended.err.strip().splitlines()[-1][:200] if ended.err.strip() else ''}"
    after = digests(folder)
    if lost := [path for path in there if path not in after and not within(path, fault.program.writes)]:
        return f"lost {lost[:3]}"
    kept = [path for path in there if not within(path, fault.program.writes)]
    if changed := [path for path in kept if there[path] != after[path]]:
        return f"changed {changed[:3]}"
    half = [path for path in after if there.get(path) != after[path] and not is_whole(folder / path)]
    if fault.expect == STOPPED:  # what is left is removed by the next run
        half = [path for path in half if not is_temporary(path)]
    if half:
        return f"half written {half[:3]}"
    if fault.expect == STOPPED:
        return _stop_wrong(ended)
    if ended.code == 2 and fault.expect != SOUND:
        return _sentence_wrong(fault, ended)
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.err[-200:]}"
    if fault.program.reports and any(name in ended.out for name in fault.names):
        return ""  # found and told
    if fault.expect == REFUSED:
        return "accepted silently"
    if fault.expect in (SAME, SOUND):
        found = {
            path: digest for path, digest in results(folder, fault.program.writes).items() if path not in fault.program.reads
        }
        sound = {path: digest for path, digest in sound.items() if path not in fault.program.reads}
        other = [path for path in sorted(sound.keys() | found.keys()) if sound.get(path) != found.get(path)]
        return f"silently other results: {other[:3]} ({len(other)} files)" if other else ""
    return ""


def _stop_wrong(ended: Ended) -> str:
    if ended.code is None:
        return "hangs when it is stopped"
    if "Traceback" in ended.err:
        return f"traceback when stopped: {ended.err.strip().splitlines()[-1][:200]}"
    # 0: it was done before the signal came.
    stopped = (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
    return "" if ended.code in stopped else f"exit code {ended.code} when stopped: {ended.err[-200:]}"


def _sentence_wrong(fault: Fault, ended: Ended) -> str:
    """Return what is wrong with the sentence on stderr."""
    told = [line for line in ended.err.splitlines() if re.match(r"error: |usage: |python -m \S+: error: |.*: error: ", line)]
    errors = [line for line in told if "error: " in line]
    if len(errors) != 1 or not ended.err.endswith("\n") or errors[0] != ended.err.splitlines()[-1]:
        return f"{len(errors)} sentences: {ended.err[-300:]!r}"
    sentence = errors[0]
    if len(sentence) > MOST_LETTERS:
        return f"a sentence of {len(sentence)} letters: {sentence[:200]}..."
    if re.search(r"\b[A-Z]\w*(Error|Exception): ", sentence.removeprefix("error: ")):
        return f"no sentence of ours: {sentence}"
    said = sentence + (ended.out if fault.program.reports else "")
    if fault.names and not any(name in said for name in fault.names):
        return f"names none of {fault.names}: {sentence}"
    return ""

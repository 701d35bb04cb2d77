"""Timing two versions of the same work by turns, and printing what came out."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

# Work shorter than this is repeated within one timing, seconds.
SHORTEST = 0.05


@dataclass(frozen=True)
class Timing:
    """Median seconds of both versions, and the smallest and largest ratio of two neighbouring timings."""

    plain: float
    ours: float
    lowest: float
    highest: float

    @property
    def ratio(self) -> float:
        """Return how many times faster ours is."""
        return self.plain / self.ours

    def per_unit(self, units: int) -> "Timing":
        """Return the timing of one of `units` pieces of work."""
        return replace(self, plain=self.plain / units, ours=self.ours / units)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was done, with its sizes.
        timing: of one unit of it.
        difference: largest difference of the two results, in words with its unit.
        goal: ratio aimed at; 0 is none.
        runs: how many such units a full VOC run has (for the projection); 0 leaves the row out.
    """

    what: str
    timing: Timing
    difference: str
    goal: float = 0.0
    runs: int = 0


def time_both(plain: Callable[[], object], ours: Callable[[], object], *, repeat: int, device: torch.device) -> Timing:
    """Time one call of each. The two take turns, so that a machine's mood touches both alike.

    Args:
        plain: the baseline, already called once (warm).
        ours: the project's code, likewise.
        repeat: timings of each.
        device: waited for before each reading of the clock.
    """
    versions = (plain, ours)
    counts = [max(1, round(SHORTEST / max(_seconds(f, 1, device), 1e-6))) if repeat > 1 else 1 for f in versions]
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for times, function, count in zip(samples, versions, counts, strict=True):
            times.append(_seconds(function, count, device))
    ratios = [first / second for first, second in zip(*samples, strict=True)]
    return Timing(statistics.median(samples[0]), statistics.median(samples[1]), min(ratios), max(ratios))


def _seconds(function: Callable[[], object], count: int, device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    for _ in range(count):
        function()
    wait(device)
    return (time.perf_counter() - started) / count


def wait(device: torch.device) -> None:
    """Wait until the device has done all work queued so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Inputs = Callable[[torch.device], tuple[Any, ...]]


def peak_memory(form: Callable[..., object], inputs: Inputs, small: Inputs, device: torch.device) -> int:
    """Return the bytes that one call of `form` needs beyond its inputs; on a CPU in a process of its own.

    Args:
        form: a module-level function, or a partial of one.
        inputs: likewise: makes its arguments.
        small: makes arguments of a call before: what is loaded then is not counted.
        device: where.
    """
    if device.type != "cuda":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_peak_here, form, inputs, small).result()
    given = inputs(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    form(*given)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_here(form: Callable[..., object], inputs: Inputs, small: Inputs) -> int:
    torch.set_num_threads(1)
    form(*small(torch.device("cpu")))
    given = inputs(torch.device("cpu"))
    before = _kilobytes("VmRSS")
    form(*given)
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    # Not from getrusage: there a new process starts with its parent's peak.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def asked_device(parser: argparse.ArgumentParser, name: str) -> torch.device:
    """Return the device `--device` names; a GPU that is not there ends the program with a sentence."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device and none is visible")
    return device


def machine_line(device: torch.device) -> str:
    """Describe processor, threads, torch and GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none used"
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, GPU {gpu}"
    )


def format_seconds(seconds: float) -> str:
    """Return e.g. '1.23 s', '4.56 ms'."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [["what", "plain", "ours", "ratio", "lowest-highest", "goal", "largest difference"], ["---"] * 7]
    for row in rows:
        goal = f">= {row.goal:g}" if row.goal else ""
        t = row.timing
        times = [format_seconds(t.plain), format_seconds(t.ours), f"{t.ratio:.2f}x", f"{t.lowest:.2f}-{t.highest:.2f}"]
        lines.append([row.what, *times, goal, row.difference])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def projection(rows: Sequence[Row]) -> str:
    """Return how long a full VOC run takes at the measured rates, a line a stage; empty when nothing can be projected."""
    hours = [(row, row.runs * row.timing.plain / 3600, row.runs * row.timing.ours / 3600) for row in rows if row.runs]
    return "\n".join(f"{row.runs} x {row.what}: plain {plain:.3g} h, ours {ours:.3g} h" for row, plain, ours in hours)

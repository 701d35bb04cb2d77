"""What each program of a run took: `stages.json` in the run's folder, for the report."""

import fcntl
import json
import resource
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.files import write_text_atomic

RECORD = "stages.json"
GIBIBYTE = 2**30
# Linux counts ru_maxrss in KiB.
RSS_UNIT = 1024


def record_stage(run_dir: str | Path, program: str, seconds: float, *, output: str | Path, images: int) -> None:
    """Note in `<run_dir>/stages.json` what a program took; an earlier note of the same program and output is replaced.

    Args:
        run_dir: the run's folder.
        program: e.g. "gen_gt".
        seconds: wall-clock time of this invocation.
        output: what it wrote; tells apart several uses of one program.
        images: how many images it worked on in that time.
    """
    path = Path(run_dir) / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "program": program,
        "output": str(output),
        "images": images,
        "seconds": round(seconds, 1),
        **_peak_memory(),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    # Programs that finish at the same moment wait for each other, so that no note is lost.
    with path.with_name(f".{RECORD}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [e for e in read_stage_records(path) if (e.get("program"), e.get("output")) != (program, str(output))]
        write_text_atomic(path, json.dumps([*others, entry], indent=2) + "\n")


def read_stage_records(path: Path) -> list[dict[str, Any]]:
    """Return the notes of a stages.json in the order they were written; none where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []


def _peak_memory() -> dict[str, float | None]:
    """Return peak memory in GiB: resident (this process, or its largest worker), and allocated on the GPU if one was used."""
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    torch = sys.modules.get("torch")  # programs without a network do not load it for this
    gpu = torch.cuda.max_memory_allocated() / GIBIBYTE if torch is not None and torch.cuda.is_initialized() else None
    return {
        "peak_memory_gib": round(max(own, workers) * RSS_UNIT / GIBIBYTE, 3),
        "peak_gpu_memory_gib": None if gpu is None else round(gpu, 3),
    }

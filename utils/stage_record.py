"""What each program of a run took: `stages.json` in the run's folder, for the report."""

import fcntl
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.files import write_text_atomic
from utils.memory import peak_gpu, peak_resident

RECORD = "stages.json"


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
    gpu = peak_gpu()
    entry = {
        "program": program,
        "output": str(output),
        "images": images,
        "seconds": round(seconds, 1),
        # GiB, of this process or its largest worker; allocated on the GPU, if one was used.
        "peak_memory_gib": round(peak_resident(workers=True), 3),
        "peak_gpu_memory_gib": None if gpu is None else round(gpu, 3),
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

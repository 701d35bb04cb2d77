"""A program that meets faults in every wrong way, for the mill's own test: `bad_programs <way>`."""

import os
import sys
import time
from pathlib import Path

from utils.errors import UserError


def main(argv: list[str]) -> None:
    """Fail as the first argument says."""
    way, out = argv[0], Path("out")
    out.mkdir(exist_ok=True)
    (out / "result.txt").write_text("right")
    if way == "hangs":
        time.sleep(60)
    elif way == "traceback":
        raise KeyError(way)
    elif way == "other results":
        (out / "result.txt").write_text("wrong")
    elif way == "accepted":
        pass
    elif way == "lost":
        Path("input.txt").unlink()
    elif way == "changed":
        Path("input.txt").write_text("other")
    elif way == "half written":
        (out / "map.png").write_bytes(b"\x89PNG")
    elif way == "temporary":
        (out / ".map.7-0f.tmp.png").touch()
    elif way == "exit code":
        sys.exit(3)
    elif way == "killed":
        os.abort()
    elif way == "two sentences":
        print("error: one", file=sys.stderr)
    elif way == "no sentence":
        sys.exit(2)
    elif way == "long":
        print(f"error: {'x' * 5000}", file=sys.stderr)
        sys.exit(2)
    if way not in ("accepted", "other results"):
        raise UserError(
            {"unclear": "KeyError: 'x'", "other name": "it is damaged"}.get(way, "input.txt is damaged; get it again")
        )

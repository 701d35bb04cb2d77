"""The environment of the scripts: what is needed must be there, what is optional may fail, nothing is installed twice."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Packages without wheels: installing them takes a compiler.
COMPILED = ("pydensecrf", "pydensecrf2")


def _set_up(root: Path, *files: str, fails: str = "none") -> tuple[int, list[str], str]:
    """Run the script in a copy whose pip only notes what it is asked for; returns code, requirement files, output."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" >>calls\n[ "$last" != "{fails}" ]\n')
    python.chmod(0o755)
    (root / "calls").unlink(missing_ok=True)
    done = subprocess.run([root / "scripts" / "setup_env.sh", *files], capture_output=True, text=True, cwd="/", check=False)
    calls = root / "calls"
    return done.returncode, calls.read_text().split() if calls.exists() else [], done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup_env.sh", tmp_path / "scripts")
    for name in ("requirements.txt", "optional.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_optional_may_fail_and_what_is_needed_may_not(root: Path) -> None:
    files = ("requirements.txt", "optional.txt")
    code, _, _ = _set_up(root, *files, fails="requirements.txt")
    assert code != 0
    code, installed, told = _set_up(root, *files, fails="optional.txt")
    assert (code, installed) == (0, [*files]) and "going on without optional.txt" in told
    assert _set_up(root, *files) == (0, [], "")
    later = (root / ".venv" / ".installed-requirements.txt").stat().st_mtime + 5
    os.utime(root / "optional.txt", (later, later))
    assert _set_up(root, *files)[1] == [*files]


def test_plain_pip_needs_no_compiler() -> None:
    needed = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), flags=re.M)
    assert "torch" in needed and "timm" in needed and not set(needed) & set(COMPILED)
    assert set(re.findall(r"^[\w-]+", (ROOT / "requirements-optional.txt").read_text(), flags=re.M)) <= set(COMPILED)

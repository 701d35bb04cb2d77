#!/usr/bin/env bash
# Everything that must hold: formatting, lint, types, tests. Makes .venv and installs what it needs on first use.
# Further arguments go to pytest, e.g. ./run_tests.sh tests/models -k transfer
set -euo pipefail
cd "$(dirname "$0")"
scripts/setup_env.sh tests/requirements.txt requirements-optional.txt tests/requirements-optional.txt

# Two test processes of one thread each: on busy cores torch's threads wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
.venv/bin/python -m pytest --numprocesses "${TEST_PROCESSES:-2}" "$@"

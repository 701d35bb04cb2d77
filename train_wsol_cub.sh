#!/usr/bin/env bash
# Train for localisation on CUB-200-2011 with the published settings of CRT; METHOD=tscam is TS-CAM alone.
# Environment: EXP (name of the run), METHOD, CONFIG, GPUS (e.g. 0,1), PYTHON; several machines: see scripts/launch.sh.
# Further arguments are key=value overrides.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsol_cub.yaml}"
METHOD="${METHOD:-crt_wsol}"
EXP="${EXP:-${METHOD}_cub}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" method="$METHOD" "$@"

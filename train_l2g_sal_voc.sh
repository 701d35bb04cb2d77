#!/usr/bin/env bash
# Train L2G with saliency on VOC with the published settings. Further arguments are key=value overrides.
# Environment: EXP (name of the run), CONFIG, GPUS (e.g. 0,1), PYTHON; several machines: see scripts/launch.sh.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-exp_voc}"
CONFIG="${CONFIG:-configs/l2g_voc.yaml}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" "$@"

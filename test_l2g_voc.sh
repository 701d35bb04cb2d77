#!/usr/bin/env bash
# Multi-scale CAMs with the trained global network, then the threshold sweep. Further arguments are key=value overrides.
# Environment: EXP (name of the run), CONFIG, GPUS (e.g. 0,1), PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-exp_voc}"
CONFIG="${CONFIG:-$(scripts/config_of.sh "$EXP" configs/l2g_voc.yaml)}"  # the run knows which
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh scripts.make_cams --config "$CONFIG" name="$EXP" "$@"
GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.evaluate_cams --config "$CONFIG" name="$EXP" "$@"

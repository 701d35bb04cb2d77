#!/usr/bin/env bash
# Train WS-FCN on VOC with the published settings; other methods and trunks by CONFIG (configs/onestage_voc_*.yaml, bsl_voc.yaml).
# Environment: EXP (name of the run), RUN_ID (a part of it: runs/EXP/RUN_ID), CONFIG, GPUS (e.g. 0,1), PYTHON; several machines:
# see scripts/launch.sh. Further arguments are key=value overrides, or published ones (--cfg FILE, --set KEY VALUE ...).
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsfcn_voc.yaml}"
EXP="${EXP:-$(basename "$CONFIG" .yaml)}"
RUN_ID="${RUN_ID:-}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" run_dir="runs/$EXP${RUN_ID:+/$RUN_ID}" "$@"

#!/usr/bin/env bash
# Train CRT on VOC with the released settings: a transformer and the ResNet-152 that refines it.
# Environment: EXP (name of the run), CONFIG, GPUS (e.g. 0,1), PYTHON; several machines: see scripts/launch.sh. Further arguments
# are key=value overrides. Then: make_crt_voc.sh.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/crt_voc.yaml}"
EXP="${EXP:-$(basename "$CONFIG" .yaml)}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" "$@"

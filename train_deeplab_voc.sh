#!/usr/bin/env bash
# Train the segmentation network on the pseudo labels gen_gt_voc.sh wrote. Further arguments are key=value overrides.
# Environment: CONFIG, GPUS (e.g. 0,1), PYTHON; several machines: see scripts/launch.sh.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/voc12_resnet_dplv2.yaml}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

scripts/launch.sh deeplab train --config-path "$CONFIG" "$@"

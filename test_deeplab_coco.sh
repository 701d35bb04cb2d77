#!/usr/bin/env bash
# Test the segmentation network, then refine its predictions by the dense CRF. Further arguments are key=value overrides.
# Environment: CONFIG, MODEL (weights; empty: this experiment's checkpoint_final.pth), GPUS (e.g. 0,1), PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/coco_resnet_dplv2.yaml}"
MODEL="${MODEL:-}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

for command in test crf; do
  scripts/launch.sh deeplab "$command" --config-path "$CONFIG" ${MODEL:+--model-path "$MODEL"} "$@"
done

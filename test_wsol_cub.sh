#!/usr/bin/env bash
# Localise: maps and scores of the test images, then boxes, Top-1, Top-5, GT-known and MaxBoxAcc, pictures in runs/EXP/boxes.
# Weights that were chosen by looking at the test set (the published 72.9 / 86.4 / 90.1) have scores of their own: WEIGHTS="final
# epoch_18" tests both, each in a folder of its name. Weights chosen on held-out training images are best: see docs/methods/wsol.md.
# Environment: EXP, METHOD, CONFIG, GPUS, PYTHON as of train_wsol_cub.sh; WEIGHTS (files of runs/EXP/model, without .pth, or paths).
# Further arguments are key=value overrides.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsol_cub.yaml}"
METHOD="${METHOD:-crt_wsol}"
EXP="${EXP:-${METHOD}_cub}"
WEIGHTS="${WEIGHTS:-final}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

for weights in $WEIGHTS; do
  path="$weights" name="$(basename "$weights" .pth)"
  if [ ! -f "$path" ]; then path="runs/$EXP/model/$weights.pth"; fi
  settings=(--config "$CONFIG" name="$EXP" method="$METHOD" cam.checkpoint="$path" cam.dir="runs/$EXP/$name/attention"
    boxes.out="runs/$EXP/boxes/$name/result.json" boxes.vis_dir="runs/$EXP/boxes/$name/pictures")
  scripts/launch.sh scripts.make_cams "${settings[@]}" "$@"
  GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.evaluate_boxes "${settings[@]}" "$@"
done

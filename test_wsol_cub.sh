#!/usr/bin/env bash
# Localise: maps and scores of the test images, then boxes, Top-1, Top-5, GT-known and MaxBoxAcc, pictures in runs/EXP/boxes.
# Then a table, runs/EXP/boxes/table.md: scores of the last epoch (final), of the weights picked on held-out training images (best,
# where there are), and, where further WEIGHTS are named, of the best of all on the test set, marked: the published 72.9 / 86.4 /
# 90.1 are so. WEIGHTS="final best epoch_18": each is tested into a folder of its name. See docs/methods/wsol.md.
# Environment: EXP, METHOD, CONFIG, GPUS, PYTHON, RUN_DIR as of train_wsol_cub.sh; WEIGHTS (files of RUN_DIR/model, without .pth, or
# paths). Further arguments are key=value overrides, or published ones (--config_file FILE, KEY VALUE).
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsol_cub.yaml}"
METHOD="${METHOD:-crt_wsol}"
EXP="${EXP:-${METHOD}_cub}"
RUN_DIR="${RUN_DIR:-runs/$EXP}"
WEIGHTS="${WEIGHTS:-final $([ ! -f "$RUN_DIR/model/best.pth" ] || echo best)}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

for weights in $WEIGHTS; do
  path="$weights" name="$(basename "$weights" .pth)"
  if [ ! -f "$path" ]; then path="$RUN_DIR/model/$weights.pth"; fi
  case "$name" in final) picked=last ;; best) picked=held_out ;; *) picked=test ;; esac
  settings=(--config "$CONFIG" name="$EXP" run_dir="$RUN_DIR" method="$METHOD" cam.checkpoint="$path"
    cam.dir="$RUN_DIR/$name/attention" boxes.out="$RUN_DIR/boxes/$name/result.json" boxes.picked="$picked"
    boxes.vis_dir?="$RUN_DIR/boxes/$name/pictures")
  scripts/launch.sh scripts.make_cams "${settings[@]}" "$@"
  GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.evaluate_boxes "${settings[@]}" "$@"
done
GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.compare "$METHOD=$RUN_DIR" --out "$RUN_DIR/boxes/table.md"

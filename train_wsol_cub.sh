#!/usr/bin/env bash
# Train for localisation on CUB-200-2011 with the published settings of CRT; METHOD=tscam is TS-CAM alone.
# Environment: EXP (name of the run), METHOD, CONFIG, GPUS (e.g. 0,1), PYTHON; RUN_DIR (default: runs/EXP; published: the folder
# ckpt/CUB/<ARCH>_CAM-NORMAL_SEED..._CAM-THR..._BS..._<time>, which is printed); several machines: see scripts/launch.sh.
# Further arguments are key=value overrides, or published ones (--config_file FILE, --lr 5e-5, KEY VALUE).
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsol_cub.yaml}"
METHOD="${METHOD:-crt_wsol}"
EXP="${EXP:-${METHOD}_cub}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3
RUN_DIR="${RUN_DIR:-runs/$EXP}"
if [ "$RUN_DIR" = published ]; then # the configuration fills in what it says
  RUN_DIR="ckpt/CUB/deit_tscam_small_patch16_224_CAM-NORMAL_SEED\${seed}_CAM-THR\${boxes.threshold}_BS\${train.batch_size}"
  RUN_DIR+="_$(date +%Y-%m-%d-%H-%M)"
fi

scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" run_dir="$RUN_DIR" method="$METHOD" "$@"

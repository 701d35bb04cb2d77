#!/usr/bin/env bash
# Pseudo labels of a trained CRT: CAMs of all training pictures and their score, seeds, IRNet, boundaries, random walk. Run again,
# finished images and stages are skipped.
# Environment: EXP, CONFIG, GPUS, PYTHON as of train_crt_voc.sh; DATA (instead of the configuration's data.root), IRN_CONFIG and
# IRN_OVERRIDES (key=value ..., by spaces) of what follows the CAMs. Further arguments are key=value overrides of the CAMs.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/crt_voc.yaml}"
export EXP="${EXP:-$(basename "$CONFIG" .yaml)}"
DATA="${DATA:-data/voc12_xml}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

settings=(--config "$CONFIG" name="$EXP" data.root="$DATA")
scripts/launch.sh scripts.make_cams "${settings[@]}" "$@"
GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.evaluate_cams "${settings[@]}" "$@"
read -r -a overrides <<<"${IRN_OVERRIDES:-}"
REFINE=irn ./gen_gt_voc.sh data.root="$DATA" ${overrides[@]+"${overrides[@]}"}

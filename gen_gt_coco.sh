#!/usr/bin/env bash
# Pseudo labels from the CAMs of a run, fused with saliency unless CONFIG says pseudo.fusion, or FUSION does (FUSION=threshold is
# the published rule).
# Environment: EXP (name of the run), CONFIG, FUSION, PYTHON. Further arguments are key=value overrides.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-exp_coco}"
CONFIG="${CONFIG:-$(scripts/config_of.sh "$EXP" configs/l2g_coco.yaml)}"  # the run knows which
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3
FUSION="${FUSION:-}"

GPUS='' NPROC=1 NNODES=1 scripts/launch.sh scripts.gen_gt --config "$CONFIG" name="$EXP" \
  pseudo.fusion?=saliency ${FUSION:+pseudo.fusion="$FUSION"} "$@"

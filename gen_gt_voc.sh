#!/usr/bin/env bash
# Pseudo labels from the CAMs of a run, fused with saliency unless CONFIG says pseudo.fusion, or FUSION does (FUSION=threshold is
# the published rule). REFINE=irn: IRNet learns from the CAMs first (seeds, training, boundaries, in runs/<EXP>_irn) and they are
# walked to its boundaries; run again, finished images and stages are skipped.
# Environment: EXP (name of the run), CONFIG, FUSION, PYTHON; REFINE, IRN_CONFIG (instead of CONFIG then), CAMS (folder of CAMs, of
# any program), GPUS. Further arguments are key=value overrides.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-exp_voc}"
CONFIG="${CONFIG:-$(scripts/config_of.sh "$EXP" configs/l2g_voc.yaml)}"  # the run knows which
REFINE="${REFINE:-}"
IRN_CONFIG="${IRN_CONFIG:-configs/irn_voc.yaml}"
CAMS="${CAMS:-runs/$EXP/ms/attention}"
export GPUS="${GPUS:-}"      # REFINE=irn: e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3
FUSION="${FUSION:-}"

one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files
case "$REFINE" in
  '') one scripts.gen_gt --config "$CONFIG" name="$EXP" pseudo.fusion?=saliency ${FUSION:+pseudo.fusion="$FUSION"} "$@" ;;
  irn)
    settings=(--config "$IRN_CONFIG" name="${EXP}_irn" cam.dir="$CAMS" ${FUSION:+pseudo.fusion="$FUSION"} "$@")
    one scripts.make_seeds "${settings[@]}"
    scripts/launch.sh scripts.train "${settings[@]}" train.resume=auto
    scripts/launch.sh scripts.make_boundaries "${settings[@]}"
    one scripts.gen_gt "${settings[@]}"
    ;;
  *) echo "error: REFINE is '$REFINE', expected irn, or nothing" >&2; exit 2 ;;
esac

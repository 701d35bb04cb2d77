#!/usr/bin/env bash
# Segment a list with a trained single-stage network: masks in runs/EXP/masks, after the dense CRF in masks/crf, scores of both,
# pictures in masks/vis. Other methods and trunks by CONFIG (configs/onestage_voc_*.yaml, bsl_voc.yaml).
# Environment: EXP, RUN_ID, CONFIG, GPUS, PYTHON as of train_wsfcn_voc.sh; FILELIST (images, default: the configuration's),
# SNAPSHOT (e.g. e018Xs0.905 for model_enc_e018Xs0.905.pth; empty: the best), OUTPUT_DIR (instead of runs/EXP/masks), SCORE (empty:
# there is no ground truth, as of VOC's test images). Further arguments are key=value overrides, or published ones (--cfg FILE,
# --set KEY VALUE ...).
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/wsfcn_voc.yaml}"
EXP="${EXP:-$(basename "$CONFIG" .yaml)}"
RUN_ID="${RUN_ID:-}"
FILELIST="${FILELIST:-}"
SNAPSHOT="${SNAPSHOT:-}"
SCORE="${SCORE-1}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3
run="runs/$EXP${RUN_ID:+/$RUN_ID}"
masks="${OUTPUT_DIR:-$run/masks}"

one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files
settings=(--config "$CONFIG" name="$EXP" run_dir="$run" cam.label_dir="$masks" pseudo.out_dir="$masks/crf"
  ${FILELIST:+data.infer_list="$FILELIST" data.eval_list="$FILELIST"}
  ${SNAPSHOT:+cam.checkpoint="$run/model/model_enc_$SNAPSHOT.pth"})

scripts/launch.sh scripts.make_cams "${settings[@]}" "$@"
one scripts.gen_gt "${settings[@]}" "$@"
if [ -n "$SCORE" ]; then
  one scripts.evaluate_labels "${settings[@]}" score.label_dir="$masks" score.out="$run/label_scores/result.json" \
    score.vis_dir="$masks/vis" score.vis_also="[$masks/crf]" "$@"
  one scripts.evaluate_labels "${settings[@]}" score.label_dir="$masks/crf" score.out="$run/label_scores/crf/result.json" "$@"
fi

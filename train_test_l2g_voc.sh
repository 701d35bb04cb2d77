#!/usr/bin/env bash
# L2G with suppression, channel attention and pasting on VOC, from training to evaluation:
#   stage A (10 epochs, nothing pasted) -> its CAMs -> foreground bank -> stage B (3 epochs with pasting) -> CAMs -> sweep.
# What is there already is kept: trainings continue, CAMs are not made twice. Further arguments are key=value overrides of every step.
# Environment: EXP (name of the run), EXP_A (of stage A), CONFIG_A, CONFIG (stage B), INIT (checkpoint of a stage A made elsewhere), BANK
# (a bank made elsewhere), BANK_SOURCE (cams, or labels: of stage A's; empty: CONFIG_A says), ANEW (not empty: stage B does not go on from stage A's
# weights), GPUS (e.g. 0,1), PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-exp_voc_sa_cda}"
CONFIG_A="${CONFIG_A:-configs/l2g_voc_sa.yaml}"
CONFIG="${CONFIG:-configs/l2g_voc_sa_cda.yaml}"
EXP_A="${EXP_A:-${EXP}_stage_a}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files

if [ -z "${INIT:-}" ]; then
  scripts/launch.sh scripts.train --config "$CONFIG_A" name="$EXP_A" train.resume=auto "$@"
  INIT="runs/$EXP_A/model/last.pth"
fi
if [ -z "${BANK:-}" ]; then
  scripts/launch.sh scripts.make_cams --config "$CONFIG_A" name="$EXP_A" cam.checkpoint="$INIT" "$@"
  BANK="runs/$EXP_A/foreground_bank"
  from=()
  if [ -n "${BANK_SOURCE:-}" ]; then from=(bank.source="$BANK_SOURCE"); fi
  if [ "${BANK_SOURCE:-}" = labels ]; then
    made="runs/$EXP_A/pseudo_seg_labels"
    one scripts.gen_gt --config "$CONFIG_A" name="$EXP_A" "$@" pseudo.out_dir="$made"
    from+=(bank.label_dir="$made")
  fi
  one scripts.make_foreground_bank --config "$CONFIG_A" name="$EXP_A" bank.dir="$BANK" ${from[@]+"${from[@]}"} "$@"
fi
start=(train.init_from="$INIT")
[ -z "${ANEW:-}" ] || start=()
scripts/launch.sh scripts.train --config "$CONFIG" name="$EXP" \
  ${start[@]+"${start[@]}"} l2g.paste.bank="$BANK" train.resume=auto "$@"
scripts/launch.sh scripts.make_cams --config "$CONFIG" name="$EXP" "$@"
one scripts.evaluate_cams --config "$CONFIG" name="$EXP" "$@"

#!/usr/bin/env bash
# Self-training: the segmentation network labels its own training pictures and is trained again on that. No mask is used.
# A round fills and doubts: pixels that had no label get one where the network is sure (multi-scale, classes of the image only,
# dense CRF), and others lose theirs where it is sure of another. It takes a network that is trained to the end: one that is worse
# than its labels makes them worse. Run again, it continues where it stopped; further arguments are key=value overrides.
# Environment: EXP (exp.id of a trained network to go on from), ROUNDS, CONFIG, LABELS (label maps it was trained on), IMAGE_LABELS
# (list '<id> <class> ...' of the training pictures), SURE (least probability), SCALES, OUT (where labels go), GPUS, PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
CONFIG="${CONFIG:-configs/voc12_resnet_dplv2.yaml}"
EXP="${EXP:?name a trained experiment to go on from, the exp.id of its configuration}"
ROUNDS="${ROUNDS:-1}"
LABELS="${LABELS:-data/voc12/pseudo_seg_labels}"
IMAGE_LABELS="${IMAGE_LABELS:-data/voc12/train_cls.txt}"
SPLIT="${SPLIT:-train_aug}"  # name of the list of training pictures, <SPLIT>.txt
SURE="${SURE:-0.9}"
DISPUTED="${DISPUTED:-ignore}"  # or network: pixels it is sure of get its label, whatever they had
SCALES="${SCALES:-[0.75,1.0,1.25,1.5]}"
OUT="${OUT:-runs/self_train}"
export GPUS="${GPUS:-}"      # e.g. 0,1: one process each; empty: one process
export PYTHON="${PYTHON:-}"  # empty: .venv/bin/python if there, else python3

teacher="$EXP"
for ((round = 1; round <= ROUNDS; round++)); do
  student="${EXP}_round$round" made="$OUT/${EXP}_round$round"
  scripts/launch.sh deeplab crf --config-path "$CONFIG" "$@" exp.id="$teacher" test.unlabelled=true dataset.split.test="$SPLIT" \
    dataset.val_list= test.scales="$SCALES" test.flip=true test.class_filter="$IMAGE_LABELS" test.ignore_below="$SURE" \
    test.fill_from="$LABELS" test.disputed="$DISPUTED" test.out_dir="$made" test.name="round$round"
  scripts/launch.sh deeplab train --config-path "$CONFIG" train.resume=auto "$@" exp.id="$student" dataset.label_dir="$made"
  for command in test crf; do
    scripts/launch.sh deeplab "$command" --config-path "$CONFIG" "$@" exp.id="$student"
  done
  teacher="$student" LABELS="$made"
done

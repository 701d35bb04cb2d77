#!/usr/bin/env bash
# A reproduction on PASCAL VOC 2012, every stage from training to the table of stages, expected figures beside measured ones. Run
# again it continues where it stopped (a queue's time limit, a power cut). docs/voc.md has an example for SLURM.
# Environment: METHOD (l2g; l2g_sa_cda: with suppression, attention, pasting; wsfcn: segments by itself), EXP (name of the run),
# CONFIG, FUSION (of pseudo labels; default: the published threshold), INIT (what the segmentation network starts from: a file, or
# hub for ImageNet weights without masks; default: the published file, which learnt from COCO's masks), SEG_CONFIG, SEG_OVERRIDES
# (key=value ... by spaces), GPUS (e.g. 0,1), PYTHON. Further arguments are key=value overrides of the first stage.
set -euo pipefail
cd "$(dirname "$0")"
METHOD="${METHOD:-l2g}"
EXP="${EXP:-${METHOD}_voc}"
INIT="${INIT:-models/deeplabv1_resnet101-coco.pth}"
SEG_CONFIG="${SEG_CONFIG:-configs/voc12_resnet_dplv2.yaml}"
export EXP GPUS="${GPUS:-}" PYTHON="${PYTHON:-}" FUSION="${FUSION:-threshold}"
run="runs/$EXP" labels="runs/$EXP/pseudo_seg_labels"

case "$METHOD" in
  l2g) CONFIG="${CONFIG:-configs/l2g_voc.yaml}" ;;
  l2g_sa_cda) CONFIG="${CONFIG:-configs/l2g_voc_sa_cda.yaml}" ;;
  wsfcn) CONFIG="${CONFIG:-configs/wsfcn_voc.yaml}" ;;
  *) echo "error: METHOD is '$METHOD', expected l2g, l2g_sa_cda or wsfcn" >&2; exit 2 ;;
esac
export CONFIG
if [ "$METHOD" != wsfcn ] && [ "$INIT" != hub ] && [ ! -f "$INIT" ]; then # hours before it is needed
  echo "error: $INIT is not there, which the segmentation network starts from; python -m scripts.download deeplab_coco_init, or" \
    "INIT=FILE, or INIT=hub (ImageNet weights, no masks)" >&2
  exit 2
fi
one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files

one scripts.check_data --config "$CONFIG" name="$EXP" "$@"
case "$METHOD" in
  l2g) ./train_l2g_sal_voc.sh train.resume=auto "$@" && ./test_l2g_voc.sh "$@" ;;
  l2g_sa_cda) ./train_test_l2g_voc.sh "$@" ;;
  wsfcn) ./train_wsfcn_voc.sh train.resume=auto "$@" && ./test_wsfcn_voc.sh "$@" ;;
esac
if [ "$METHOD" != wsfcn ]; then
  ./gen_gt_voc.sh "$@" pseudo.out_dir="$labels"
  one scripts.evaluate_labels --config "$CONFIG" name="$EXP" "$@" data.eval_list='${data.root}/train.txt' score.label_dir="$labels"
  read -r -a overrides <<<"${SEG_OVERRIDES:-}"
  segment=("exp.output_dir=$run/deeplab" "dataset.label_dir=$PWD/$labels" "model.init_model=$INIT" ${overrides[@]+"${overrides[@]}"})
  CONFIG="$SEG_CONFIG" ./train_deeplab_voc.sh train.resume=auto "${segment[@]}"
  CONFIG="$SEG_CONFIG" ./test_deeplab_voc.sh "${segment[@]}"
fi

one scripts.report --run "$run"
one scripts.compare "$METHOD=$run" --expected "${METHOD}_voc" --out "$run/table.md"

#!/usr/bin/env bash
# A reproduction on PASCAL VOC 2012, every stage from training to the table of stages, expected figures beside measured ones. Run
# again it continues where it stopped (a queue's time limit, a power cut). docs/voc.md has an example for SLURM.
# Environment: METHOD (l2g; l2g_sa_cda: with suppression, attention, pasting; l2g_best: configs/recipes, what helped in our
# measurements; wsfcn: segments by itself; crt: with IRNet; cdl: l2g's labels, corrected by experts), EXP (name of the run), CONFIG,
# FUSION (of pseudo labels; default: the published threshold), INIT (what the segmentation network starts from: a file, or hub for
# ImageNet weights without masks; default: the published file, which learnt from COCO's masks), SEG_CONFIG, SEG_OVERRIDES (key=value
# ... by spaces), EVAL_LIST (what labels are scored on; default: train.txt), VARIANT (of cdl: b or e), DATA (of crt), GPUS (e.g. 0,1),
# PYTHON. Further arguments are key=value overrides of the first stage.
set -euo pipefail
cd "$(dirname "$0")"
METHOD="${METHOD:-l2g}"
EXP="${EXP:-${METHOD}_voc}"
INIT="${INIT:-models/deeplabv1_resnet101-coco.pth}"
[ -n "${EVAL_LIST:-}" ] || EVAL_LIST='${data.root}/train.txt'
run="runs/$EXP" labels="runs/$EXP/pseudo_seg_labels"
data='' fusion=threshold fuse=./gen_gt_voc.sh segment=deeplab segmentation=voc12_resnet_dplv2 l2g='train_l2g_sal_voc test_l2g_voc'

case "$METHOD" in  # configuration; scripts of the first stage; what is not as above
  l2g) config=l2g_voc stages="$l2g" ;;
  l2g_sa_cda) config=l2g_voc_sa_cda stages=train_test_l2g_voc ;;
  l2g_best) config=recipes/l2g_best stages=train_test_l2g_voc fusion=saliency segmentation=recipes/l2g_best_dplv2
    export CONFIG_A="${CONFIG_A:-configs/l2g_voc_improved.yaml}" BANK_SOURCE=labels ANEW=true ;;
  wsfcn) config=wsfcn_voc stages='train_wsfcn_voc test_wsfcn_voc' fuse='' segment='' ;;
  crt) config=crt_voc stages='train_crt_voc make_crt_voc' fuse='' data="${DATA:-data/voc12_xml}" fusion='' ;;
  cdl) config=l2g_voc stages="$l2g" segment=cdl segmentation=voc12_coco_pretrain ;;
  *) echo "error: METHOD is '$METHOD', expected l2g, l2g_sa_cda, l2g_best, wsfcn, crt or cdl" >&2; exit 2 ;;
esac
export EXP CONFIG="${CONFIG:-configs/$config.yaml}" FUSION="${FUSION:-$fusion}" GPUS="${GPUS:-}" PYTHON="${PYTHON:-}"
export IRN_OVERRIDES="${IRN_OVERRIDES:-} pseudo.out_dir=$labels" DATA="$data"
if [ -n "$segment" ] && [ "$INIT" != hub ] && [ ! -f "$INIT" ]; then # hours before it is needed
  echo "error: $INIT is not there, which the segmentation network starts from; python -m scripts.download deeplab_coco_init, or" \
    "INIT=FILE, or INIT=hub (ImageNet weights, no masks)" >&2
  exit 2
fi
one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files

[ -z "$data" ] || set -- data.root="$data" "$@"
one scripts.check_data --config "$CONFIG" name="$EXP" "$@"
for stage in $stages; do
  case "$stage" in train_*) resume=train.resume=auto ;; *) resume='' ;; esac
  INIT='' "./$stage.sh" ${resume:+"$resume"} "$@"
done
if [ -n "$segment" ]; then
  [ -z "$fuse" ] || "$fuse" "$@" pseudo.out_dir="$labels"
  one scripts.evaluate_labels --config "$CONFIG" name="$EXP" "$@" data.eval_list="$EVAL_LIST" score.label_dir="$labels"
  read -r -a overrides <<<"${SEG_OVERRIDES:-}"
  settings=("exp.output_dir=$run/deeplab" "dataset.label_dir=$PWD/$labels" "model.init_model=$INIT" ${data:+"dataset.root=$data"}
    ${overrides[@]+"${overrides[@]}"})
  export CONFIG="${SEG_CONFIG:-configs/$segmentation.yaml}"
  "./train_${segment}_voc.sh" train.resume=auto "${settings[@]}"
  "./test_${segment}_voc.sh" "${settings[@]}"
fi

expected=(--expected "${METHOD}_voc")
grep -q "^${METHOD}_voc:" docs/expected.yaml || expected=()
one scripts.report --run "$run"
one scripts.compare "$METHOD=$run" ${expected[@]+"${expected[@]}"} --out "$run/table.md"

#!/usr/bin/env bash
# The whole pipeline on drawn pictures, on any machine: data, training, CAMs or masks, pseudo labels, a segmentation, CRF,
# a table, pictures. The system's training runs beside that of a plain CAM classifier of equal length. Run again, trainings
# continue where they stopped; for other settings give another EXP, or train.resume= train.overwrite=true.
# Environment: SYSTEM (l2g, wsfcn, crt, crt_apart; boxes: wsol, tscam), BESIDE (what trains beside it: one of these, plain, or
# none), SEGMENT (the segmentation stage, configs/demo_$SEGMENT.yaml, or none), EXP (prefix of the runs), CONFIG, SEED, PYTHON;
# SEG_CONFIG and SEG_OVERRIDES (key=value ..., by spaces) of the segmentation stage; INTERPRETER, a Python that has everything,
# instead of .venv. Further arguments are
# key=value overrides of the system's run, and of the other one where both have the same configuration.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-demo}"
SYSTEM="${SYSTEM:-l2g}"
SEED="${SEED:-0}"
IMAGES="${IMAGES:-400}"                  # training pictures
UNSEEN="${UNSEEN:-80}"                   # pictures that no training sees
TRUNK_EPOCHS="${TRUNK_EPOCHS:-12}"       # plain classification before SYSTEM=wsfcn begins
PLAIN_EPOCHS="${PLAIN_EPOCHS:-22}"       # plain classification for as long as L2G trains, measured in time
INTERPRETER="${INTERPRETER:-}"

KNOWN=(plain l2g wsfcn crt_apart crt tscam wsol) # in the order of the table
describe() { # SYSTEM: sets its title in the table, configuration, settings, programs, and labels for which segmentation stage
  local maps=(train "make_cams cam.overwrite=true")
  local unseen='data.infer_list=${data.root}/val_cls.txt data.eval_list=${data.root}/val_aug.txt cam.labels=predict'
  unseen+=' cam.dir=${run_dir}/ms/val cam.label_dir=${run_dir}/masks/val'
  local cam_programs=("${maps[@]}" evaluate_cams
    'gen_gt pseudo.fusion=threshold pseudo.out_dir=${run_dir}/pseudo_threshold'
    'gen_gt pseudo.fusion=saliency pseudo.out_dir=${run_dir}/pseudo_saliency')
  local boxes='boxes.vis_dir=${run_dir}/boxes/pictures'
  config="configs/$1_demo.yaml" settings=() labels='' segment=none other=plain task=masks data=data/demo
  case "$1" in
    plain) title="plain CAM" config=configs/l2g_demo.yaml settings=(method=cam "train.epochs=$PLAIN_EPOCHS" cam.activation=relu)
      programs=("${cam_programs[@]}") labels=pseudo_saliency ;;
    l2g) title=L2G programs=("${cam_programs[@]}") labels=pseudo_saliency segment=dplv2 ;;
    wsfcn) title=WS-FCN labels=masks/crf # its masks are a segmentation: of pictures of known classes, then of unseen ones
      programs=(trunk "${maps[@]}" evaluate_labels gen_gt
        "make_cams cam.overwrite=true $unseen"
        "evaluate_labels $unseen"' score.label_dir=${cam.label_dir} score.out=${run_dir}/label_scores/val/result.json'
        "gen_gt $unseen"' pseudo.out_dir=${cam.label_dir}/crf') ;;
    crt | crt_apart) title=CRT config=configs/crt_demo.yaml labels=pseudo_threshold # CAMs of both branches
      local cnn='cam.network=cnn cam.checkpoint=${run_dir}/model/last.pth cam.dir=${run_dir}/cnn/attention'
      programs=("${cam_programs[@]}" "make_cams cam.overwrite=true $cnn"
        "evaluate_cams $cnn"' eval.out=${run_dir}/cnn/result.json')
      if [ "$1" = crt_apart ]; then title="CRT, branches apart" settings=(crt.l1_weight=0); fi ;;
    tscam | wsol) title="CRT, boxes" config=configs/wsol_demo.yaml programs=("${maps[@]}" "evaluate_boxes $boxes")
      other=tscam task=boxes data=data/demo_boxes
      if [ "$1" = tscam ]; then title=TS-CAM settings=(method=tscam) other=none; fi ;;
    *) echo "error: SYSTEM or BESIDE is '$1', expected one of ${KNOWN[*]} (BESIDE also none)" >&2; exit 2 ;;
  esac
}

describe "$SYSTEM"
BESIDE="${BESIDE:-$other}"
DATA="${DATA:-$data}"                    # folder of the drawn pictures
if [ "$BESIDE" != none ]; then describe "$BESIDE"; fi
describe "$SYSTEM"
CONFIG="${CONFIG:-$config}"
SEGMENT="${SEGMENT:-$segment}"
SEG_CONFIG="${SEG_CONFIG:-configs/demo_$SEGMENT.yaml}"
if [ "$SEGMENT" != none ] && [ ! -f "$SEG_CONFIG" ]; then
  echo "error: SEGMENT is '$SEGMENT', expected none or the * of a configs/demo_*.yaml; there is no $SEG_CONFIG" >&2
  exit 2
fi
if [ -n "$INTERPRETER" ]; then
  python="$INTERPRETER"
else
  scripts/setup_env.sh requirements.txt requirements-optional.txt
  python=.venv/bin/python
fi
export OMP_NUM_THREADS=1

"$python" -m scripts.make_demo_data --out "$DATA" --train "$IMAGES" --val "$UNSEEN" --task "$task"

pipeline() { # NAME CONFIG [key=value ...]: the programs that were described
  local name="$1" config="$2" program words
  shift 2
  for program in "${programs[@]}"; do
    read -r -a words <<<"$program"
    if [ "$program" = trunk ]; then # what the system starts from, where others take ImageNet weights: a classifier's trunk
      local alike=() each
      for each in "$@"; do
        case "$each" in model.*) alike+=("$each") ;; esac
      done
      "$python" -m scripts.train --config configs/l2g_demo.yaml "name=${name}_trunk" "seed=$SEED" "data.root=$DATA" \
        "data.class_names=$DATA/classes.txt" train.resume=auto method=cam cam.activation=relu "train.epochs=$TRUNK_EPOCHS" \
        ${alike[@]+"${alike[@]}"}
      continue
    fi
    "$python" -m "scripts.${words[0]}" --config "$config" "name=$name" "seed=$SEED" "data.root=$DATA" \
      "data.class_names=$DATA/classes.txt" train.resume=auto "$@" ${settings[@]+"${settings[@]}"} "${words[@]:1}"
  done
}

mkdir -p runs
if [ "$BESIDE" != none ]; then
  log="runs/${EXP}_$BESIDE.log"
  describe "$BESIDE"
  echo "$title: training in the background, log in $log"
  others=()
  if [ "$config" = "$CONFIG" ]; then others=("$@"); fi
  set -m # a process group of its own, so that stopping the demo stops this training too
  pipeline "${EXP}_$BESIDE" "$config" ${others[@]+"${others[@]}"} >"$log" 2>&1 &
  beside=$!
  set +m
  trap 'kill -- "-$beside" 2>/dev/null || true' EXIT
fi
describe "$SYSTEM"
pipeline "${EXP}_$SYSTEM" "$CONFIG" "$@"
if [ "$BESIDE" != none ]; then
  if ! wait "$beside"; then
    echo "error: the run ${EXP}_$BESIDE failed; the end of $log:" >&2
    tail -n 5 "$log" >&2
    exit 1
  fi
  trap - EXIT
fi

run="runs/${EXP}_$SYSTEM"
if [ "$SEGMENT" != none ]; then
  read -r -a overrides <<<"${SEG_OVERRIDES:-}"
  stage=(--config-path "$SEG_CONFIG" "exp.id=$SEGMENT" "exp.output_dir=$run/deeplab" "seed=$SEED" train.resume=auto
    "dataset.root=$DATA" "dataset.labels=$DATA/classes.txt" "dataset.label_dir=$run/$labels"
    "model.init_model=$run/model/final.pth"
    ${overrides[@]+"${overrides[@]}"})
  unseen=("${stage[@]}" "dataset.val_list=$DATA/val_aug.txt" "dataset.split.val=val")
  "$python" -m deeplab train "${stage[@]}"
  case "$SEGMENT" in cdl_*) "$python" -m deeplab refresh "${stage[@]}" ;; esac # the labels as the experts correct them
  for command in test crf; do
    "$python" -m deeplab "$command" "${stage[@]}"
    "$python" -m deeplab "$command" "${unseen[@]}"
  done
fi

rows=() pages=(--run "$run") asked="$task"
for system in "${KNOWN[@]}"; do # whatever was run under this name before stands in the table too
  if [ ! -d "runs/${EXP}_$system/cards" ]; then continue; fi
  describe "$system"
  if [ "$task" != "$asked" ]; then continue; fi
  rows+=("$title=runs/${EXP}_$system")
  if [ "$system" != "$SYSTEM" ]; then pages+=(--run "runs/${EXP}_$system"); fi
done
echo
"$python" -m scripts.compare "${rows[@]}" --out "runs/${EXP}_table.md"
"$python" -m scripts.report "${pages[@]}" --pictures "$run/report"
echo
pictures="$run/report/images.png"
if [ "$asked" = masks ]; then pictures+=", $run/report/scores.png"; else pictures+=", $run/boxes/pictures"; fi
echo "pictures:    $pictures"
echo "TensorBoard: .venv/bin/tensorboard --logdir runs"

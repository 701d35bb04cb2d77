#!/usr/bin/env bash
# The whole pipeline on drawn pictures, on any machine: data, training, CAMs, sweep, pseudo labels, segmentation network, dense
# CRF, a table, pictures.
# Two trainings of equal length run side by side: a plain CAM classifier and L2G. Run again, trainings continue where they
# stopped; for other settings give another EXP, or train.resume= train.overwrite=true.
# Environment: EXP (prefix of the runs), CONFIG, SEED, PYTHON; for the segmentation stage SEG_CONFIG and SEG_OVERRIDES
# (key=value ..., by spaces); INTERPRETER, a Python that has everything, instead of .venv. Further arguments are key=value
# overrides of both first-stage runs.
set -euo pipefail
cd "$(dirname "$0")"
EXP="${EXP:-demo}"
CONFIG="${CONFIG:-configs/l2g_demo.yaml}"
SEG_CONFIG="${SEG_CONFIG:-configs/demo_dplv2.yaml}"
INTERPRETER="${INTERPRETER:-}"
SEED="${SEED:-0}"
DATA="${DATA:-data/demo}"                # folder of the drawn pictures
IMAGES="${IMAGES:-400}"                  # training pictures
UNSEEN="${UNSEEN:-80}"                   # pictures that only the segmentation network is tested on
PLAIN_EPOCHS="${PLAIN_EPOCHS:-22}"       # plain classification for as long as L2G trains, measured in time

if [ -n "$INTERPRETER" ]; then
  python="$INTERPRETER"
else
  scripts/setup_env.sh requirements.txt
  python=.venv/bin/python
fi
export OMP_NUM_THREADS=1

"$python" -m scripts.make_demo_data --out "$DATA" --train "$IMAGES" --val "$UNSEEN"

pipeline() { # NAME [key=value ...]: train, CAMs, sweep, pseudo labels by both fusions
  local name="$1" fusion
  shift
  local common=(--config "$CONFIG" "name=$name" "seed=$SEED" "data.root=$DATA" "data.class_names=$DATA/classes.txt"
    train.resume=auto "$@")
  "$python" -m scripts.train "${common[@]}"
  "$python" -m scripts.make_cams "${common[@]}" cam.overwrite=true
  "$python" -m scripts.evaluate_cams "${common[@]}"
  for fusion in threshold saliency; do
    "$python" -m scripts.gen_gt "${common[@]}" "pseudo.fusion=$fusion" "pseudo.out_dir=runs/$name/pseudo_$fusion"
  done
}

mkdir -p runs
plain_log="runs/${EXP}_plain.log"
echo "plain CAM classifier: training in the background, log in $plain_log"
set -m # a process group of its own, so that stopping the demo stops this training too
pipeline "${EXP}_plain" "$@" method=cam "train.epochs=$PLAIN_EPOCHS" cam.activation=relu >"$plain_log" 2>&1 &
plain=$!
set +m
trap 'kill -- "-$plain" 2>/dev/null || true' EXIT
pipeline "${EXP}_l2g" "$@"
if ! wait "$plain"; then
  echo "error: the plain run failed; the end of $plain_log:" >&2
  tail -n 5 "$plain_log" >&2
  exit 1
fi
trap - EXIT

run="runs/${EXP}_l2g"
read -r -a overrides <<<"${SEG_OVERRIDES:-}"
segment=(--config-path "$SEG_CONFIG" "exp.id=demo" "exp.output_dir=$run/deeplab" "seed=$SEED" train.resume=auto "dataset.root=$DATA"
  "dataset.labels=$DATA/classes.txt" "dataset.label_dir=$run/pseudo_saliency" "model.init_model=$run/model/final.pth"
  ${overrides[@]+"${overrides[@]}"})
unseen=("${segment[@]}" "dataset.val_list=$DATA/val_aug.txt" "dataset.split.val=val")
"$python" -m deeplab train "${segment[@]}"
for command in test crf; do
  "$python" -m deeplab "$command" "${segment[@]}"
  "$python" -m deeplab "$command" "${unseen[@]}"
done

echo
"$python" -m scripts.compare "plain CAM=runs/${EXP}_plain" "L2G=runs/${EXP}_l2g" --out "runs/${EXP}_table.md"
"$python" -m scripts.report --run "$run" --run "runs/${EXP}_plain" --pictures "$run/report"
echo
echo "pictures:    $run/report/images.png, $run/report/scores.png"
echo "TensorBoard: .venv/bin/tensorboard --logdir runs"

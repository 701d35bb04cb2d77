#!/usr/bin/env bash
# From a folder of your own pictures to pseudo labels, a segmentation network and a page that shows them:
#   ./run_custom.sh PICTURES [LABELS.csv | LABELS.json] [key=value ...]
# Without a file of labels there is one folder a class in PICTURES. Run again it continues; what is finished is not done again. On a
# CPU a small trunk is taken, and it says first how long that will take. key=value are overrides of the first stage.
# Environment: NAME (data/NAME, runs/NAME; default: the folder's), MASKS (folder of ground truth, to be scored), SALIENCY (folder of
# saliency maps) or SALIENCY_MODEL (u2net.onnx, or rembg:u2net), WEIGHTS (file of the trunk; default: fetched), PRESET (own_pictures or
# own_pictures_cpu; default: by the machine), SEG_OVERRIDES (key=value ... by spaces), GPUS (e.g. 0,1), INTERPRETER, a Python that has
# everything, instead of .venv.
set -euo pipefail
if [ $# -eq 0 ] || [ ! -d "$1" ]; then
  echo "error: ${1:-nothing} is no folder of pictures; usage: ./run_custom.sh PICTURES [LABELS.csv] [key=value ...]" >&2
  exit 2
fi
absolute() { (cd "$(dirname -- "$1")" && printf '%s/%s' "$PWD" "$(basename -- "$1")"); }
pictures="$(cd -- "$1" && pwd)"
shift
prepare=(--images "$pictures")
if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then
  prepare+=(--labels "$(absolute "$1")")
  shift
fi
if [ -n "${MASKS:-}" ]; then prepare+=(--masks "$(absolute "$MASKS")"); fi
if [ -n "${SALIENCY:-}" ]; then prepare+=(--saliency "$(absolute "$SALIENCY")"); fi
model="${SALIENCY_MODEL:-}"
if [ -f "$model" ]; then model="$(absolute "$model")"; fi
weights="${WEIGHTS:-}"
if [ -f "$weights" ]; then weights="$(absolute "$weights")"; fi
cd "$(dirname "$0")"

if [ -n "${INTERPRETER:-}" ]; then
  PYTHON="$INTERPRETER"
else
  scripts/setup_env.sh requirements.txt requirements-optional.txt
  PYTHON="$PWD/.venv/bin/python"
fi
export PYTHON GPUS="${GPUS:-}"
one() { GPUS='' NPROC=1 NNODES=1 scripts/launch.sh "$@"; }  # steps that only read and write files
suffix="$("$PYTHON" -c 'import torch; print("" if torch.cuda.is_available() else "_cpu")')"
PRESET="${PRESET:-own_pictures$suffix}"
name="${NAME:-$(basename "$pictures" | tr -c 'A-Za-z0-9._\n-' _)}"
data="data/$name" run="runs/$name"

echo "== pictures: $data"
one scripts.prepare_custom "${prepare[@]}" --out "$data" --config "$data/config.yaml" --preset "$PRESET" --overwrite
stage=(--config "$data/config.yaml" train.resume=auto data.eval_list="$data/train_cls.txt" ${weights:+"model.pretrained=$weights"})
if [ -n "$model" ]; then
  echo "== saliency: $data/Sal"
  one scripts.make_saliency "${stage[@]}" saliency.model="$model" saliency.image_list=all
  stage+=(l2g.saliency=map pseudo.fusion=saliency)
fi
one scripts.check_data "${stage[@]}" "$@"
read -r -a overrides <<<"${SEG_OVERRIDES:-}"
labels="$run/pseudo_seg_labels"
segment=(--config-path "configs/${PRESET}_dplv2.yaml" "exp.id=$name" "exp.output_dir=$run/deeplab" train.resume=auto
  "dataset.root=$data" "dataset.labels=$data/classes.txt" "dataset.n_classes=$(($(wc -l <"$data/classes.txt") + 1))"
  "dataset.train_list=$data/train_cls.txt" "dataset.label_dir=$PWD/$labels" "model.init_model=$run/model/final.pth"
  ${overrides[@]+"${overrides[@]}"})
if [ -n "$suffix" ]; then one benchmarks.foretell "${stage[@]}" "$@" -- "${segment[@]}"; fi

echo "== training: $run"
scripts/launch.sh scripts.train "${stage[@]}" "$@"
scripts/launch.sh scripts.make_cams "${stage[@]}" "$@"
if [ -f "$data/train_masked.txt" ]; then one scripts.evaluate_cams "${stage[@]}" "$@" data.eval_list="$data/train_masked.txt"; fi
one scripts.gen_gt "${stage[@]}" "$@" pseudo.out_dir="$labels"

echo "== segmentation network: $run/deeplab"
scripts/launch.sh deeplab train "${segment[@]}"
if [ -f "$data/val_aug.txt" ]; then
  segment+=("dataset.val_list=$data/val_aug.txt")
else # no ground truth: predictions without scores
  unseen="$data/val_cls.txt"
  if [ ! -f "$unseen" ]; then unseen="$data/train_cls.txt"; fi
  segment+=("dataset.val_list=$unseen" test.unlabelled=true)
fi
for command in test crf; do scripts/launch.sh deeplab "$command" "${segment[@]}"; done

one scripts.report --run "$run"
echo
echo "labels:      $labels"
echo "network:     $(find "$run/deeplab" -name checkpoint_final.pth)"
echo "predictions: $(find "$run/deeplab" -type d -path '*predictions*' -links 2 | tr '\n' ' ')"
echo "report:      $run/report/index.html"

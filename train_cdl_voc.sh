#!/usr/bin/env bash
# Train the segmentation network with experts that correct the labels gen_gt_voc.sh wrote. Further arguments are key=value
# overrides.
# Environment: VARIANT (b or e), CONFIG, GPUS (e.g. 0,1), PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
VARIANT="${VARIANT:-b}"
CONFIG="${CONFIG:-configs/voc12_coco_pretrain.yaml}" exec ./train_deeplab_voc.sh "method=cdl_$VARIANT" "$@"

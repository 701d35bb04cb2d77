#!/usr/bin/env bash
# Test what train_cdl_voc.sh trained, then refine its predictions by the dense CRF. Further arguments are key=value overrides.
# Environment: VARIANT (b or e), CONFIG, MODEL (weights; empty: this experiment's checkpoint_final.pth), GPUS, PYTHON.
set -euo pipefail
cd "$(dirname "$0")"
VARIANT="${VARIANT:-b}"
CONFIG="${CONFIG:-configs/voc12_coco_pretrain.yaml}" exec ./test_deeplab_voc.sh "method=cdl_$VARIANT" "$@"

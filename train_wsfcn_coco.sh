#!/usr/bin/env bash
# As train_wsfcn_voc.sh, on MS COCO 2014 (configs/wsfcn_coco.yaml).
set -euo pipefail
cd "$(dirname "$0")"
export CONFIG="${CONFIG:-configs/wsfcn_coco.yaml}"
exec ./train_wsfcn_voc.sh "$@"

#!/usr/bin/env bash
# As test_wsfcn_voc.sh, on MS COCO 2014 (configs/wsfcn_coco.yaml).
set -euo pipefail
cd "$(dirname "$0")"
export CONFIG="${CONFIG:-configs/wsfcn_coco.yaml}"
exec ./test_wsfcn_voc.sh "$@"

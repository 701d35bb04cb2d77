#!/usr/bin/env bash
# The published name of train_test_l2g_voc.sh.
set -euo pipefail
exec "$(dirname "$0")/train_test_l2g_voc.sh" "$@"

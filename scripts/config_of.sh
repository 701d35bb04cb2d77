#!/usr/bin/env bash
# config_of.sh RUN DEFAULT: the configuration a run was trained with, or DEFAULT where the run does not say or the file is gone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
found="$(sed -n '1s/^# from //p' "runs/$1/config.yaml" 2>/dev/null || true)"
if [ -f "$found" ]; then printf '%s' "$found"; else printf '%s' "$2"; fi

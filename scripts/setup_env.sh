#!/usr/bin/env bash
# setup_env.sh REQUIREMENTS [OPTIONAL ...]: make .venv once and install REQUIREMENTS whenever one of the files is newer than the last
# install, then what can be had of the OPTIONAL files.
# Environment: PYTHON is the interpreter the environment is made with (default python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements="$1"
stamp=".venv/.installed-$(printf '%s' "$requirements" | tr '/' '-')"
if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
install() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$1"
}
newer=''
for file in requirements.txt "$@"; do
  if [ ! -e "$stamp" ] || [ "$file" -nt "$stamp" ]; then newer=yes; fi
done
if [ -n "$newer" ]; then
  echo "installing $requirements into .venv (several GB the first time)"
  install "$requirements"
  for optional in "${@:2}"; do
    log=".venv/$(basename "$optional").log"  # a page about a missing compiler is no fault
    install "$optional" >"$log" 2>&1 || echo "going on without $optional, which says what that means (why: $log)"
  done
  touch "$stamp"
fi

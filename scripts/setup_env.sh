#!/usr/bin/env bash
# setup_env.sh REQUIREMENTS: make .venv once and install REQUIREMENTS whenever that file is newer than the last install.
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
if [ ! -e "$stamp" ] || [ "$requirements" -nt "$stamp" ] || [ requirements.txt -nt "$stamp" ]; then
  echo "installing $requirements into .venv (several GB the first time)"
  if ! install "$requirements"; then
    echo "trying again without pydensecrf2, which is optional and needs a C++ compiler"
    # Both files in one: the second refers to the first, which still holds that line.
    grep -hEv '^(-r|pydensecrf2)' requirements.txt "$requirements" | sort -u > .venv/without-compiler.txt
    install .venv/without-compiler.txt
  fi
  touch "$stamp"
fi

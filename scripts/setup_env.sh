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
    echo "trying again without the optional packages: pydensecrf2 needs a C++ compiler, playwright a platform it is built for"
    # Both files in one: the second refers to the first, which still holds that line.
    grep -hEv '^(-r|pydensecrf2|playwright)' requirements.txt "$requirements" | sort -u > .venv/without-optional.txt
    install .venv/without-optional.txt
  fi
  touch "$stamp"
fi

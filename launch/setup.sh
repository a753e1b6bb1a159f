#!/usr/bin/env bash
# Makes .venv when it is missing and installs requirements.txt into it, then the
# further requirement files that are named. Run again, it does only what is new.
#   bash launch/setup.sh [requirements-test.txt ...]
# PYTHON=/path/to/python says which Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*"; }

fail() {
  say "$*" >&2
  exit 1
}

has_uv() { command -v uv >/dev/null 2>&1; }

find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  if ! python="$(find_python)"; then
    has_uv || fail "found no Python of version 3.11 or newer on PATH; install one," \
      "or name it: PYTHON=/path/to/python3.12 bash $0"
    python=3.12 # uv brings that
  fi
  if has_uv; then
    say "making .venv with uv and $python"
    uv venv --quiet --seed --python "$python" .venv
  else
    say "making .venv with $("$python" --version) ($python)"
    if ! "$python" -m venv .venv; then
      rm -rf .venv
      fail "$python could not make .venv; on Debian and Ubuntu install python3-venv"
    fi
  fi
}

check_venv() {
  .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail ".venv has no working Python of version 3.11 or newer; remove .venv and" \
      "run this again"
  has_uv || .venv/bin/python -m pip --version >/dev/null 2>&1 ||
    .venv/bin/python -m ensurepip >/dev/null ||
    fail ".venv has no pip; remove .venv and run this again"
}

# The stamp is a copy of the file that was installed.
install() {
  local file="$1" stamp=".venv/.installed-$1"
  [ -f "$file" ] || fail "there is no file $PWD/$file"
  if cmp -s "$file" "$stamp"; then
    say "$file is installed"
    return
  fi
  say "installing $file into .venv"
  if has_uv; then
    uv pip install --quiet --python .venv/bin/python \
      --constraint requirements.txt --requirement "$file"
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint requirements.txt --requirement "$file"
  fi
  cp "$file" "$stamp"
}

[ -e .venv ] || make_venv
check_venv
for file in requirements.txt "$@"; do
  install "$file"
done

#!/usr/bin/env bash
# Lint, layout and the fast tests; arguments go to pytest.
#   bash launch/test.sh [-m multiprocess] [tests/test_samplers.py ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh requirements-test.txt
# The tests compile many small programs, and keep them inside the checkout.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.1}"
# shellcheck source=launch/env.sh
source launch/env.sh

echo "test: ruff check"
python -m ruff check
echo "test: ruff format --check"
python -m ruff format --check
echo "test: pytest $*"
python -m pytest --numprocesses=2 --dist=loadfile "$@"

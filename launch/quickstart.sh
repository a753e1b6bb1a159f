#!/usr/bin/env bash
# From a fresh clone to a grid of pictures, with the weights in the repository.
#   bash launch/quickstart.sh [FOLDER]      (samples/quickstart unless named)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="${1:-$root/samples/quickstart}"
case "$out" in
  /*) ;;
  *) out="$PWD/$out" ;;
esac
cd "$root"

bash launch/setup.sh
# shellcheck source=launch/env.sh
source launch/env.sh

prompts=(
  "a fox on a teal background"
  "a red apple on a white background"
  "an owl on a purple background"
  "a strawberry on a yellow background"
  "a sailboat on a blue background"
  "a castle on an orange background"
  "an octopus on a pink background"
  "a locomotive on a green background"
)

echo "quickstart: drawing ${#prompts[@]} pictures"
start=$SECONDS
python -m ldm_jax.sample "${prompts[@]/#/--prompt=}" --n=1 --seed=0 --out="$out"
echo "quickstart: done in $((SECONDS - start)) s; look at $out/grid.png"

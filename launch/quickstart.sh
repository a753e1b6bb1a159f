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

start=$SECONDS
bash launch/setup.sh
# shellcheck source=launch/env.sh
source launch/env.sh
installed=$((SECONDS - start))

singles=(
  "a fox on a teal background"
  "a red apple on a white background"
  "an owl on a purple background"
  "a strawberry on a yellow background"
  "a sailboat on a blue background"
  "a castle on an orange background"
  "an octopus on a pink background"
  "a locomotive on a green background"
)
scenes=(
  "a fox and a hut on snow under a blue sky, the fox left of the hut"
  "a tractor and a sunflower on grass under a sunset sky, the sunflower in front of the tractor"
  "a waving person in a red shirt and blue trousers and a cat on grass under a blue sky, the cat right of the person"
  "a rocket and a cactus on sand under a night sky, the rocket above the cactus"
  "a sailboat and a whale on water under a cloudy sky, the whale in front of the sailboat"
  "a bus and a palm tree on a road under a pink sky, the palm tree behind the bus"
  "a snow scene under a night sky with a house and a polar bear, the polar bear right of the house"
  "a walking person in a yellow shirt and black trousers and a horse on sand under a sunset sky, the person left of the horse"
)
prompts=("${singles[@]}" "${scenes[@]}")

echo "quickstart: drawing ${#prompts[@]} pictures"
start=$SECONDS
python -m ldm_jax.sample "${prompts[@]/#/--prompt=}" --n=1 --seed=0 --overwrite --out="$out"

# The edges of the first scene, in other words, by the control branch that ships.
redrawn=(
  "a fox and a hut on grass under a sunset sky"
  "a cat and a castle on sand under a night sky"
  "a pig and a house on a road under a pink sky"
  "a tiger and a tent on snow under a cloudy sky"
)
echo "quickstart: drawing $((2 * ${#redrawn[@]})) more by the edges of one of them"
python -m ldm_jax.sample "${redrawn[@]/#/--prompt=}" --control=demo:canny.safetensors \
  --hint="$out/00008.png" --annotate --n=2 --seed=0 --overwrite --out="$out/control"
echo "quickstart: installed in $installed s, sampled in $((SECONDS - start)) s;" \
  "look at $out/grid.png and $out/control/grid.png"
echo "quickstart: to go on with your own words:"
echo "  source launch/env.sh"
echo "  python -m ldm_jax.sample --interactive"

#!/usr/bin/env bash
# From a fresh clone to pictures; sets up .venv first. Prompts are arguments:
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh "a 3D render of a fox on a sky blue background"
# The pictures are written to quickstart_out in the current folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
setup_venv
if [[ "${1:-}" == "--setup-only" ]]; then exit 0; fi

if [[ $# -eq 0 ]]; then
  # Pairs of object and colour that were never seen together in training.
  set -- \
    "a 3D render of a lion on a navy blue background" \
    "a 3D render of a penguin on a red background" \
    "a 3D render of a cat on a pink background" \
    "a 3D render of a watermelon on a black background" \
    "a 3D render of a doughnut on a sky blue background" \
    "a 3D render of a red apple on a green background" \
    "a 3D render of a soccer ball on a yellow background" \
    "a 3D render of a balloon on a purple background"
fi
prompts=()
for prompt in "$@"; do prompts+=("--prompt=$prompt"); done

out="$PWD/quickstart_out"
"$PYTHON_VENV" -m imagen_jax sample "${prompts[@]}" --out="$out"
echo
echo "The pictures are in $out."
echo "More: $VENV/bin/imagen --help"

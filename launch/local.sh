#!/usr/bin/env bash
# Trains on this machine, and goes on by itself; sets up .venv first. Arguments
# go to `imagen train`:
#   bash launch/local.sh --config=configs/demo.py:base --workdir=runs/base
#   MAX_RESTARTS=3 bash launch/local.sh --config=... --workdir=...
# It starts again after 42, 134, 137 and 143 (stopped with a checkpoint,
# aborted, killed), MAX_RESTARTS times at most (default 10), and else ends with
# the code of the trainer. Ctrl-C or SIGTERM: the trainer saves, and both end.
set -euo pipefail

SLEEP="${IMAGEN_SLEEP:-sleep}"
MAX_RESTARTS="${MAX_RESTARTS:-10}"
if [[ -n "${IMAGEN_PYTHON:-}" ]]; then  # an environment that is ready
  PYTHON_VENV="$IMAGEN_PYTHON"
else
  source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
  setup_venv
fi

STOPPED="" CHILD="" SIGNALLED=""
# shellcheck disable=SC2329  # called by the trap
ask_to_stop() {
  STOPPED=yes SIGNALLED=yes
  if [[ -n "$CHILD" ]]; then kill -TERM "$CHILD" 2> /dev/null || true; fi
}
trap ask_to_stop INT TERM

# Sets CODE to how the trainer ended. A signal ends a `wait`, not the trainer.
train() {
  "$PYTHON_VENV" -m imagen_jax train "$@" &
  CHILD=$!
  SIGNALLED=yes
  while [[ -n "$SIGNALLED" ]]; do
    SIGNALLED="" CODE=0
    wait "$CHILD" || CODE=$?
  done
  CHILD=""
}

restarts=0
while [[ -z "$STOPPED" ]]; do
  train "$@"
  case "$CODE" in
    42 | 134 | 137 | 143) ;;
    *) exit "$CODE" ;;
  esac
  if [[ -n "$STOPPED" ]]; then break; fi
  if ((++restarts > MAX_RESTARTS)); then
    echo "local: ended with $CODE; MAX_RESTARTS=$MAX_RESTARTS are used up." >&2
    break
  fi
  echo "local: ended with $CODE; restart $restarts of $MAX_RESTARTS." >&2
  "$SLEEP" 5 &
  wait "$!" || true  # a signal ends it
done
exit "${CODE:-143}"

#!/usr/bin/env bash
# Runs the test suite; sets up .venv first. Arguments go to pytest:
#   bash launch/test.sh
#   bash launch/test.sh tests/cli -k near_misses
#   TEST_PROCESSES=1 bash launch/test.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
setup_venv dev
if [[ "${1:-}" == "--setup-only" ]]; then exit 0; fi
cd "$REPOSITORY"
# -v takes back the -q of pyproject.toml. Files go to the workers in order of
# names: by default those of few tests, as the longest one, would come last.
exec "$PYTHON_VENV" -m pytest -v -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@"

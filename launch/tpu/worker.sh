#!/usr/bin/env bash
# The part of tpu_train.sh that runs on each worker of a slice. It is copied
# there with the code; each line but the last can be repeated at any time, as
# gcloud does of its own accord when a connection breaks.
#
#   worker.sh setup  RUN SHA256          check and unpack code, environment
#   worker.sh start  RUN ATTEMPT         the trainer, detached, at most once
#   worker.sh report RUN                 one line: what it does
#   worker.sh log    RUN ATTEMPT OFFSET  what it wrote, from that byte on
#   worker.sh stop   RUN GRACE [asked]   SIGTERM; SIGKILL after GRACE seconds
#   worker.sh supervise RUN ATTEMPT      what `start` leaves behind
#
# Files in ~/imagen-RUN:
#   code.tar.gz command settings env   shipped; `command` holds arguments that
#                                      end in NUL, so that no shell reads them
#   code-SHA/ code                     unpacked; the one in use
#   lock                               held while a trainer lives
#   attempt pid exit_code log-ATTEMPT  of the newest trainer
#   stopped                            it was stopped by `tpu_train.sh --stop`
#
# A report is
#   imagen-worker INDEX idle|running|ended|gone ATTEMPT EXIT_CODE STEP STOPPED
# with "-" for what there is not. `gone` is a trainer that left no exit code, as
# after a reboot. STEP is that of the newest checkpoint.
set -Eeuo pipefail

UV="uv==0.13.9"  # which also decides the very Python 3.11 that it fetches
SLEEP="${IMAGEN_SLEEP:-sleep}"
LOG_SECONDS=60  # between copies of a log to the bucket

say() { echo "worker $(index): $*" >&2; }
fail() { say "$*"; return 1; }

# The hosts of a slice are called t1v-n-1a2b3c4d-w-0, -1, ...
index() {
  local name="${IMAGEN_WORKER:-$(hostname)}"
  name="${name##*-w-}"
  if [[ "$name" =~ ^[0-9]+$ ]]; then echo "$name"; else echo 0; fi
}

# retry TRIES COMMAND...: with longer and longer pauses between.
retry() {
  local tries="$1" delay=5 i
  shift
  for ((i = 1; i <= tries; i++)); do
    "$@" && return
    ((i == tries)) || "$SLEEP" "$delay"
    delay=$((delay * 2))
  done
  return 1
}

# What a file of the run holds, or "-".
value() { if [[ -s "$FOLDER/$1" ]]; then cat "$FOLDER/$1"; else echo -; fi; }

# A reader sees the old file or the new one.
write() { echo "$2" > "$FOLDER/$1.new" && mv "$FOLDER/$1.new" "$FOLDER/$1"; }

setup() {
  local sha="$1" code="code-${1:0:12}"
  cd "$FOLDER"
  echo "$sha  code.tar.gz" | sha256sum --check --status ||
    fail "code.tar.gz is not the file that was sent; start again."
  if [[ ! -d "$code" ]]; then
    rm -rf code.partial
    mkdir code.partial
    tar -xzf code.tar.gz -C code.partial
    mv -T code.partial "$code"
  fi
  ln -sfn "$code" code
  exec 8>> "$HOME/imagen-setup.lock"  # one at a time, whatever gcloud repeats
  flock 8
  build_environment
  mount_bucket
  exec 8>&-
}

# The environment is named for its lock file, built aside and then renamed: one
# with that name is whole.
environment() {
  local hash
  hash="$(sha256sum < "$FOLDER/code/launch/requirements-tpu.lock")"
  echo "$HOME/imagen-venv-${hash:0:12}"
}

build_environment() {
  local venv
  venv="$(environment)"
  if [[ -d "$venv" ]]; then return; fi
  say "building $venv"
  rm -rf "$venv.partial"
  retry 4 python3 -m pip install --quiet --upgrade --target="$HOME/imagen-uv" \
    "$UV" || fail "pip could not install $UV; see its lines above."
  retry 4 uv venv --quiet --clear --relocatable --python=3.11 "$venv.partial" ||
    fail "uv could not make an environment; see its lines above."
  retry 4 uv pip sync --quiet --require-hashes \
    --python="$venv.partial/bin/python" \
    "$FOLDER/code/launch/requirements-tpu.lock" ||
    fail "uv could not install requirements-tpu.lock; see its lines above."
  mv -T "$venv.partial" "$venv"
}

# shellcheck disable=SC2329  # called through retry, as is install_gcsfuse
uv() { "$HOME/imagen-uv/bin/uv" "$@"; }

# The bucket as a folder, `bucket` for the trainer: metrics need a file system.
# Workers must see at once what another one wrote, so nothing is remembered.
mount_bucket() {
  if [[ -z "$BUCKET" ]]; then return; fi
  local folder="$HOME/imagen-bucket"
  mkdir -p "$folder"
  if ! mountpoint --quiet "$folder"; then
    command -v gcsfuse > /dev/null || retry 4 install_gcsfuse ||
      fail "gcsfuse is not there and could not be installed."
    gcsfuse --implicit-dirs --rename-dir-limit=100000 \
      --metadata-cache-ttl-secs=0 "${BUCKET#gs://}" "$folder" ||
      fail "could not mount $BUCKET; may the service account write in it?"
  fi
  ln -sfn "$folder" "$FOLDER/code/bucket"
}

# shellcheck disable=SC2329
install_gcsfuse() {
  local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings
  local site=https://packages.cloud.google.com/apt
  curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key/gcsfuse.asc" > /dev/null &&
    echo "deb [signed-by=$key/gcsfuse.asc]" \
      "$site gcsfuse-$(lsb_release -cs) main" |
    sudo tee "$list" > /dev/null &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=300 update &&
    sudo apt-get -qq -o DPkg::Lock::Timeout=300 install -y gcsfuse
}

# The lock lies on descriptor 9, which the trainer inherits: it is held as long
# as one of them lives. An attempt has a number, and starts once. A second of
# patience, as `held` takes the lock for an instant.
start() {
  local attempt="$1" last
  exec 9>> "$FOLDER/lock"
  last="$(value attempt)"
  if flock --timeout 1 9 && [[ "$last" == - || "$attempt" -gt "$last" ]]; then
    rm -f "$FOLDER/exit_code" "$FOLDER/pid" "$FOLDER/stopped"
    write attempt "$attempt"
    setsid bash "$FOLDER/worker.sh" supervise "$RUN" "$attempt" \
      < /dev/null >> "$FOLDER/log-$attempt" 2>&1 &
  fi
  exec 9>&-
  report
}

supervise() {
  local attempt="$1" code=0 python copier
  local -a arguments
  trap : TERM INT HUP  # the trainer decides when it ends
  mapfile -d '' -t arguments < "$FOLDER/command"
  python="$(environment)/bin/python"
  if [[ -f "$FOLDER/env" ]]; then
    set -a
    # shellcheck source=/dev/null
    source "$FOLDER/env"
    set +a
  fi
  cd -P "$FOLDER/code"
  copy_logs "$attempt" 9>&- &
  copier=$!
  bash -c 'echo "$$" > "$0"; exec "$@"' "$FOLDER/pid" \
    "$python" "${arguments[@]}" || code=$?
  echo "worker $(index): the trainer ended with code $code"
  # To ssh, and so to gcloud, 255 is a broken connection: it would try again.
  if ((code == 255)); then code=1; fi
  kill "$copier" 2> /dev/null || true
  copy_log "$attempt"
  write exit_code "$code"
}

copy_logs() {
  trap - TERM
  while [[ -n "$REMOTE_LOGS" ]]; do
    sleep "$LOG_SECONDS"
    copy_log "$1"
  done
}

copy_log() {
  if [[ -z "$REMOTE_LOGS" ]]; then return; fi
  gcloud storage cp --quiet "$FOLDER/log-$1" \
    "$REMOTE_LOGS/attempt-$1/worker-$(index).log" < /dev/null \
    > "$FOLDER/copy.log" 2>&1 9>&- || true
}

# Whether a trainer lives. Shared, so that two who ask do not see each other.
held() { ! flock --shared --nonblock "$FOLDER/lock" true; }

report() {
  local state=idle stopped=-
  if held; then
    state=running
  elif [[ "$(value exit_code)" != - ]]; then
    state=ended
  elif [[ "$(value attempt)" != - ]]; then
    state=gone
  fi
  if [[ -e "$FOLDER/stopped" ]]; then stopped=stopped; fi
  echo "imagen-worker $(index) $state $(value attempt) $(value exit_code)" \
    "$(newest_step) $stopped"
}

# The newest checkpoint that has its manifest, in the folder of --workdir.
newest_step() {
  local -a arguments=()
  local i workdir="" newest=-1 file step
  if [[ -f "$FOLDER/command" ]]; then
    mapfile -d '' -t arguments < "$FOLDER/command"
  fi
  for ((i = 0; i < ${#arguments[@]}; i++)); do
    case "${arguments[i]}" in
      --workdir=*) workdir="${arguments[i]#*=}" ;;
      --workdir) workdir="${arguments[i + 1]:-}" ;;
    esac
  done
  if [[ "$workdir" != /* ]]; then workdir="$FOLDER/code/$workdir"; fi
  for file in "$workdir"/checkpoints/*.manifest.json; do
    step="${file##*/}"
    step="${step%.manifest.json}"
    if [[ "$step" =~ ^[0-9]+$ ]] && ((10#$step > newest)); then
      newest=$((10#$step))
    fi
  done
  if ((newest < 0)); then echo -; else echo "$newest"; fi
}

stop() {
  local grace="$1" sent="" pid i
  if [[ -n "${2:-}" ]]; then touch "$FOLDER/stopped"; fi
  for ((i = 0; i < grace; i++)); do
    if ! held; then break; fi
    pid="$(value pid)"  # "-" for an instant after the start
    if [[ -z "$sent" && "$pid" != - ]] && kill -TERM "$pid"; then sent=yes; fi
    "$SLEEP" 1
  done
  if held && [[ "$(value pid)" != - ]]; then
    say "still there after $grace seconds; killing it."
    kill -KILL "$(value pid)" || true
    for ((i = 0; i < 10; i++)); do
      if ! held; then break; fi
      "$SLEEP" 1
    done
  fi
  report
}

main() {
  local command="$1"
  RUN="$2"
  FOLDER="$HOME/imagen-$RUN"
  BUCKET="" REMOTE_LOGS=""
  shift 2
  if [[ ! -d "$FOLDER" ]]; then mkdir -p "$FOLDER"; fi
  if [[ -f "$FOLDER/settings" ]]; then
    # shellcheck source=/dev/null
    source "$FOLDER/settings"
  fi
  case "$command" in
    setup) setup "$@" ;;
    start) start "$@" ;;
    report) report ;;
    stop) stop "$@" ;;
    supervise) supervise "$@" ;;
    log) tail -c "+$(($2 + 1))" "$FOLDER/log-$1" 2> /dev/null || true ;;
    *) fail "unknown command $command" ;;
  esac
}

# On one line, as the file may be copied anew while it runs.
main "$@"; exit

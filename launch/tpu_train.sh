#!/usr/bin/env bash
# Trains on a Cloud TPU slice: see usage() below, and docs/tpu.md.
set -Eeuo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
SLEEP="${IMAGEN_SLEEP:-sleep}"
readonly CLOUD=7  # exit code: the slice could not be had, or not be reached

usage() {
  cat << 'EOF'
Trains on a Cloud TPU slice, from creating it to deleting it.

  launch/tpu_train.sh --run=base --zone=us-central2-b --accelerator=v4-512 \
    --bucket=gs://my-bucket --spot --max_hours=48 -- \
    --config=configs/demo.py:base --workdir=bucket/runs/base

What follows -- goes to `imagen train` as it is; --coordinator=auto is added.
The same line again joins the run: it never starts a second trainer.

It makes the slice imagen-RUN, or uses one that is there; sends a commit of this
repository to every worker; installs launch/requirements-tpu.lock there; starts
the trainer, detached; keeps the log of each worker; starts again what was
preempted; and deletes what it made, however it ends. Keep it running (tmux): it
is what stops the cost. Ctrl-C stops the trainer, saves, and deletes.

which slice
  --run=NAME            names the run and the slice; a-z, 0-9 and -
  --zone=ZONE           or IMAGEN_TPU_ZONE
  --project=ID          or IMAGEN_TPU_PROJECT, or what gcloud is set to
  --accelerator=TYPE    v4-512, v5e-256, v5p-128, v6e-256, ...
  --runtime=VERSION     of the TPU software (default: by the accelerator)
  --spot | --reserved   instead of on demand
  --queued              wait in line for it, as a queued resource
  --network=, --subnetwork=, --service_account=, --internal_ips
what runs there
  --bucket=gs://NAME    mounted on every worker as the folder `bucket`
  --commit=REVISION     what to send, in place of HEAD
  --allow_dirty         send tracked files as they are, changes included
  --env=FILE            KEY=VALUE lines for the trainer (secrets; mode 600)
what is kept
  --logs=FOLDER         attempt-K/worker-W.log and ledger.jsonl
                        (default runs/launch/NAME)
  --remote_logs=gs://X  workers copy their logs there each minute, too
  --keep                do not delete the slice at the end
when it ends
  --max_hours=H         stop, save and delete after so many hours; 0 never
                        (default 0)
  --wait_hours=H        how long to wait for a slice (default 24)
  --max_preemptions=N   restarts after 42, 134, 137, 143 or a lost slice
                        (default 1000)
  --max_failures=N      restarts after 1 or 6 (default 2)
  --max_stalled=N       restarts in a row without a newer checkpoint (default 3)
  --poll_seconds=N      between two looks (default 30)
  --grace_seconds=N     from SIGTERM to SIGKILL (default 300)
instead of training
  --dry_run             print every command, run none
  --status              the slice, its workers, the newest attempts
  --stop                end the run: SIGTERM, checkpoint, code 42
  --cleanup             delete the slice of the run

exit codes
  0 trained; 1 to 6 and above 128 are the trainer's (imagen train --help);
  2 also for these flags; 7 no slice could be had, or it could not be reached;
  42 stopped with a checkpoint: the same line goes on; 130, 143 by a signal
EOF
}

exec 6>&2  # stderr, also where a signal is heard while it is redirected
say() { echo "$(printf '%(%H:%M:%S)T' -1) tpu_train: $*" >&6; }
die() { say "$*"; exit 2; }
now() {
  if [[ -n "${IMAGEN_CLOCK:-}" ]]; then  # a file that holds the time, for tests
    echo "$(< "$IMAGEN_CLOCK")"
  else
    printf '%(%s)T\n' -1
  fi
}

# shellcheck source=tpu/flags.sh
source "$REPOSITORY/launch/tpu/flags.sh"
# shellcheck source=tpu/slice.sh
source "$REPOSITORY/launch/tpu/slice.sh"
# shellcheck source=tpu/attempt.sh
source "$REPOSITORY/launch/tpu/attempt.sh"

# One launcher a run on this machine. Others are kept out by the workers' locks.
open_folder() {
  mkdir -p "$FOLDER" 2> /dev/null && [[ -w "$FOLDER" ]] ||
    die "cannot write in $FOLDER; give another --logs=FOLDER."
  exec 7>> "$FOLDER/lock"
  if ! flock --nonblock 7; then
    die "process $(cat "$FOLDER/launcher" 2> /dev/null || true) looks after" \
      "$RUN already; see --status, or end it with --stop."
  fi
  echo "$$" > "$FOLDER/launcher"
  rm -f "$FOLDER/stop"
}

# record EVENT [KEY VALUE]...: one line of the ledger, for goodput and cost.
record() {
  local line event="$1"
  shift
  line="{\"time\": $(now), \"event\": \"$event\", \"attempt\": ${ATTEMPT:-0}"
  while (($#)); do
    if [[ "$2" =~ ^[0-9]+$ ]]; then
      line+=", \"$1\": $2"
    else
      line+=", \"$1\": \"${2//[^a-zA-Z0-9._:,-]/ }\""
    fi
    shift 2
  done
  echo "$line}" >> "$FOLDER/ledger.jsonl"
}

# back_off N: 10 s, 20 s, 40 s, ... 10 minutes; a quarter more or less, so that
# many runs do not come back at once.
back_off() {
  local seconds=$((10 << ($1 < 6 ? $1 : 6)))
  if ((seconds > 600)); then seconds=600; fi
  echo $((seconds * (75 + RANDOM % 51) / 100))
}

# The highest number among the folders attempt-*.
newest_attempt() {
  local folder newest=0
  for folder in "$FOLDER"/attempt-*; do
    if [[ "${folder##*-}" =~ ^[0-9]+$ ]] && ((${folder##*-} > newest)); then
      newest="${folder##*-}"
    fi
  done
  echo "$newest"
}

train() {
  FINISH_AT=0
  if ((MAX_HOURS)); then FINISH_AT=$(($(now) + MAX_HOURS * 3600)); fi
  print_plan
  if [[ -z "$DRY_RUN" ]]; then
    choose_commit
    open_folder
    ATTEMPT="$(newest_attempt)"
    trap finish EXIT
  fi
  pack
  while :; do
    CODE=143 CULPRIT=0 LOST=""
    if ! acquire; then
      if [[ -n "$STOPPED" ]]; then exit 42; fi
      exit "$CLOUD"
    fi
    if ! prepare; then
      if [[ "$STATE" == READY ]]; then exit "$CLOUD"; fi
      LOST=yes
    elif WATCHING=yes && begin; then
      watch
    else
      LOST=yes
    fi
    if [[ -n "$DRY_RUN" ]]; then break; fi
    conclude
    if ((CODE == 0)); then say "trained."; break; fi
    if ! may_restart; then exit "$CODE"; fi
    say "starting again after code $CODE: preemption $PREEMPTIONS," \
      "failure $FAILURES, checkpoint $STEP"
    pause "$(back_off "$STALLED")"
  done
  if [[ -n "$DRY_RUN" && -z "$KEEP" ]]; then delete_slice; fi
}

# However it ends. A second signal does not disturb this.
finish() {
  local code=$?
  trap '' INT TERM HUP
  trap - EXIT
  set +e  # whatever fails here, the slice is deleted
  exec 2>&6
  if [[ -n "$CHILD" ]]; then kill "$CHILD" 2> /dev/null || true; fi
  CHILD=""
  if [[ -n "$WATCHING" ]]; then
    if ! stop_workers "" || ((RUNNING > 0)); then
      say "could not stop the trainers."
      CODE=143  # what an earlier report said is no end
    fi
    if [[ -z "$LOST" ]]; then conclude; fi
  fi
  rm -rf "$SCRATCH" "${FOLDER:?}/imagen-$RUN"
  if [[ -n "$KEEP" ]]; then
    say "$NAME is kept, and costs money; delete it with --cleanup."
  elif [[ -e "$FOLDER/created" ]]; then
    delete_slice || true
  fi
  say "ends with code $code; logs are in $FOLDER"
  exit "$code"
}

status() {
  local report
  look_at_slice
  if [[ -z "$DRY_RUN" ]]; then echo "slice $NAME: $STATE, $WORKERS workers"; fi
  if [[ "$STATE" == READY || -n "$DRY_RUN" ]]; then
    read_reports || echo "not all workers answer"
    for report in "${REPORTS[@]}"; do echo "$report"; done
  fi
  tail -n 5 "$FOLDER/ledger.jsonl" 2> /dev/null || true
}

# The file tells a launcher on this machine, the mark one anywhere else.
stop_run() {
  look_at_slice
  if [[ -n "$DRY_RUN" ]]; then
    on_workers all stop "$RUN" "$GRACE_SECONDS" asked
    return 0
  fi
  touch "$FOLDER/stop"
  if [[ "$STATE" != READY ]]; then
    say "slice $NAME is $STATE; nothing runs there."
    return 0
  fi
  stop_workers asked || exit "$CLOUD"
  printf '%s\n' "${REPORTS[@]}"
}

clean_up() {
  if [[ -z "$DRY_RUN" ]]; then touch "$FOLDER/stop"; fi  # no launcher remakes it
  delete_slice || exit "$CLOUD"
}

main() {
  set_defaults
  parse "$@"
  validate
  if ((BASH_VERSINFO[0] < 5)) || ! command -v flock > /dev/null; then
    die "bash 5 and flock are needed: use Linux, or Google's Cloud Shell."
  fi
  if [[ -z "$DRY_RUN" ]] && ! command -v gcloud > /dev/null; then
    die "gcloud is not on the PATH; see docs/tpu.md."
  fi
  STOPPED="" WATCHING="" ATTEMPT=0 CODE=0 LOST="" CULPRIT=0
  STEP=0 BEST=0 FIRST=1 STALLED=0 PREEMPTIONS=0 FAILURES=0
  if [[ -z "$DRY_RUN" ]]; then
    SCRATCH="$(mktemp -d)"
    trap 'rm -rf "$SCRATCH"' EXIT
  fi
  if [[ -z "$DRY_RUN" && "$MODE" != train ]]; then mkdir -p "$FOLDER"; fi
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  case "$MODE" in
    train) train ;;
    status) status ;;
    stop) stop_run ;;
    cleanup) clean_up ;;
  esac
}

main "$@"

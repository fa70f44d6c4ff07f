# Sourced by tpu_train.sh: everything that calls gcloud. Reads its flags (NAME,
# ZONE, ...) and sets STATE, WORKERS and REPORTS.
#
# Facts that shape it, read in the source of Google Cloud SDK 528:
# - `ssh` runs its command again, up to ten times, when that ends with 255;
# - `ssh --worker=all` waits for all, and ends with the code of the lowest
#   worker that failed: so workers write codes to files, which are asked for;
# - `ssh --output-directory=X` writes to a folder called None;
# - a Spot slice that was taken cannot be started: it is deleted and made anew.
# shellcheck shell=bash

STATE=UNKNOWN  # of the slice
WORKERS=0      # how many hosts it has
REPORTS=()     # their newest lines, in order
REASON=""      # what gcloud said last on stderr
CHILD=""       # the command that is waited for
EXEC=""        # whether gcloud may replace the shell

# Runs gcloud; in a dry run prints the line that it would run.
cloud() {
  local line
  if [[ -n "$DRY_RUN" ]]; then
    printf -v line '%q ' gcloud "$@"
    echo "${line% }"
  else  # 6 is stderr, 7 the lock of the run's folder
    ${EXEC:+exec} timeout --kill-after=10 "${LIMIT:-3600}" \
      gcloud "$@" < /dev/null 6>&- 7>&-
  fi
}

# tpu KIND VERB ...: with the flags that all of them take.
tpu() {
  cloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+"--project=$PROJECT"}
}

# Waits for a command in such a way that a signal is heard at once, and that the
# end of CHILD is the end of gcloud.
waited() {
  local code=0
  (
    EXEC=yes
    "$@"
  ) &
  CHILD=$!
  wait "$CHILD" || code=$?
  CHILD=""
  return "$code"
}

pause() {
  if [[ -z "$DRY_RUN" ]]; then waited "$SLEEP" "$1" 6>&- 7>&-; fi
}

# Runs a command, with its output in the file $1 and on no screen.
logged() {
  local file="$1"
  shift
  if [[ -n "$DRY_RUN" ]]; then "$@"; else waited "$@" > "$file" 2>&1; fi
}

# Sets STATE and WORKERS. UNKNOWN is a question without an answer.
look_at_slice() {
  local found
  STATE=UNKNOWN
  if [[ -n "$QUEUED" ]]; then
    found="$(ask queued-resources describe "$NAME" \
      --format="value(state.state)")" || return 0
    if [[ -n "$DRY_RUN" ]]; then echo "$found"; fi
    if [[ "$found" != ACTIVE && -z "$DRY_RUN" ]]; then
      STATE="${found:-UNKNOWN}"
      return 0
    fi
  fi
  found="$(ask tpu-vm describe "$NAME" \
    --format="value(state,networkEndpoints.len())")" || return 0
  if [[ -n "$DRY_RUN" ]]; then
    echo "$found"
    return 0
  fi
  read -r STATE WORKERS <<< "$found"
  # Queued, and its node is gone: made anew like one that was taken.
  if [[ "$STATE" == NOT_FOUND && -n "$QUEUED" ]]; then STATE=PREEMPTED; fi
}

# What gcloud answers, or NOT_FOUND; fails where it cannot be asked.
ask() {
  local found LIMIT=300
  if [[ -n "$DRY_RUN" ]]; then
    tpu "$@"
  elif found="$(tpu "$@" 2> "$SCRATCH/answer")"; then
    echo "$found"
  elif grep -q -e NOT_FOUND -e "was not found" "$SCRATCH/answer"; then
    echo NOT_FOUND
  else
    return 1
  fi
}

# Until the slice is READY. Fails if it never will be; says why.
acquire() {
  local deadline=$(($(now) + WAIT_HOURS * 3600)) last="" tries=0 waits=0
  while :; do
    look_at_slice
    if [[ -n "$DRY_RUN" ]]; then
      create_slice
      return 0
    fi
    if [[ "$STATE" != "$last" ]]; then say "slice $NAME: $STATE"; fi
    last="$STATE"
    case "$STATE" in
      READY) return 0 ;;
      NOT_FOUND)
        if ! create_slice; then
          if is_hopeless "$REASON"; then return 1; fi
          # Capacity comes and goes; what is not understood is tried five times.
          if [[ "$REASON" != *[Cc]apacity* ]] && ((++tries >= 5)); then
            return 1
          fi
          pause "$(back_off "$waits")"
          waits=$((waits + 1))
        fi
        ;;
      PREEMPTED | TERMINATED | FAILED | SUSPENDED)
        explain_state
        if [[ "$STATE" == FAILED ]] && ((++tries >= 3)); then return 1; fi
        delete_slice || return 1
        ;;
      STOPPED | HIDDEN)
        say "start $NAME yourself, or give it up: --cleanup."
        return 1
        ;;
      *) pause "$POLL_SECONDS" ;;
    esac
    if is_over; then return 1; fi
    if (($(now) >= deadline)); then
      say "no slice in $WAIT_HOURS hours."
      return 1
    fi
  done
}

# Whether trying again cannot help.
is_hopeless() {
  local word
  for word in Quota quota PERMISSION_DENIED INVALID_ARGUMENT UNAUTHENTICATED \
    NOT_FOUND "gcloud auth" "unrecognized arguments"; do
    if [[ "$1" == *"$word"* ]]; then return 0; fi
  done
  return 1
}

# The file `created` comes first: what a signal leaves half made is deleted too.
create_slice() {
  local -a how
  if [[ -z "$DRY_RUN" ]]; then touch "$FOLDER/created"; fi
  if [[ -n "$QUEUED" ]]; then
    how=(queued-resources create "$NAME" --node-id="$NAME"
      --runtime-version="$RUNTIME")
  else
    how=(tpu-vm create "$NAME" --version="$RUNTIME")
  fi
  how+=(--accelerator-type="$ACCELERATOR" --labels="imagen-run=$RUN" --quiet)
  if [[ -n "$CAPACITY" ]]; then how+=("--$CAPACITY"); fi
  if [[ -n "$NETWORK" ]]; then how+=(--network="$NETWORK"); fi
  if [[ -n "$SUBNETWORK" ]]; then how+=(--subnetwork="$SUBNETWORK"); fi
  if [[ -n "$INTERNAL_IPS" ]]; then how+=(--internal-ips); fi
  if [[ -n "$SERVICE_ACCOUNT" ]]; then
    how+=(--service-account="$SERVICE_ACCOUNT")
  fi
  if [[ -n "$DRY_RUN" ]]; then
    tpu "${how[@]}"
    return 0
  fi
  say "creating $NAME ($ACCELERATOR${CAPACITY:+, $CAPACITY})"
  record create
  if waited tpu "${how[@]}" > "$FOLDER/create.log" 2>&1; then return 0; fi
  REASON="$(< "$FOLDER/create.log")"
  # Somebody else was faster: it is theirs, and looked at again.
  if [[ "$REASON" == *ALREADY_EXISTS* ]]; then
    rm -f "$FOLDER/created"
    return 0
  fi
  say "gcloud could not create $NAME: $(tail -n 3 "$FOLDER/create.log")"
  return 1
}

# Why a queued resource failed, as far as gcloud knows.
explain_state() {
  if [[ -z "$QUEUED" ]]; then return 0; fi
  say "$NAME is $STATE: $(ask queued-resources describe "$NAME" \
    --format="value(state)" || echo "no reason given")"
}

delete_slice() {
  local tries
  local -a how=(tpu-vm delete "$NAME" --quiet)
  if [[ -n "$QUEUED" ]]; then
    how=(queued-resources delete "$NAME" --force --quiet)
  fi
  if [[ -n "$DRY_RUN" ]]; then
    tpu "${how[@]}"
    return 0
  fi
  for tries in 0 1 2 3 4; do  # while it is being made, it cannot be deleted
    say "deleting $NAME"
    if logged "$FOLDER/delete.log" tpu "${how[@]}" ||
      grep -q NOT_FOUND "$FOLDER/delete.log"; then
      rm -f "$FOLDER/created"
      record delete
      return 0
    fi
    if ((tries < 4)); then pause "$(back_off "$tries")"; fi
  done
  record delete_failed
  say "!!!! $NAME COULD NOT BE DELETED, AND COSTS MONEY. Delete it:"
  DRY_RUN=yes tpu "${how[@]}" >&2
  tail -n 3 "$FOLDER/delete.log" >&2
  return 1
}

# on_workers WHICH ARGUMENT...: worker.sh there. No argument needs quotes.
on_workers() {
  local which="$1"
  shift
  tpu tpu-vm ssh "$NAME" --worker="$which" --quiet \
    ${INTERNAL_IPS:+--internal-ip} \
    --command="bash imagen-$RUN/worker.sh $*"
}

copy_to_workers() {
  tpu tpu-vm scp --recurse "$1" "$NAME:" --worker=all --quiet \
    ${INTERNAL_IPS:+--internal-ip}
}

# Sets REPORTS; fails unless every worker has answered.
read_reports() {
  local LIMIT=300
  if [[ -n "$DRY_RUN" ]]; then
    on_workers all report "$RUN"
    return 0
  fi
  ask_workers report "$RUN"
}

# A command of worker.sh that ends with a report of each worker.
ask_workers() {
  REPORTS=()
  waited on_workers all "$@" > "$SCRATCH/reports" 2> "$SCRATCH/ssh.log" &&
    take_reports "$SCRATCH/reports"
}

# The reports among the lines of a file, one of each worker.
take_reports() {
  mapfile -t REPORTS < <(grep '^imagen-worker ' "$1" | sort -u -n -k 2,2)
  ((${#REPORTS[@]} > 0 && ${#REPORTS[@]} == WORKERS))
}

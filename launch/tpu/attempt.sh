# Sourced by tpu_train.sh: one attempt, from packing the code to the question
# whether there is to be another. Sets CODE, LOST, STEP and STOPPED.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # variables are of the other parts, too

readonly MAX_MISSES=10  # polls in a row that a READY slice may not answer

# The commit to send; dirty trees only when asked, as nobody could repeat them.
choose_commit() {
  local stash
  if [[ -n "$COMMIT" ]]; then
    SENT="$(git -C "$REPOSITORY" rev-parse --verify --quiet \
      "$COMMIT^{commit}")" || die "there is no commit $COMMIT."
    return 0
  fi
  SENT="$(git -C "$REPOSITORY" rev-parse HEAD)" || die "no git repository."
  if [[ -z "$(git -C "$REPOSITORY" status --porcelain)" ]]; then return 0; fi
  if [[ -z "$ALLOW_DIRTY" ]]; then
    die "there are uncommitted changes; commit them, or name what to send:" \
      "--commit=HEAD without them, --allow_dirty with those of tracked files."
  fi
  stash="$(git -C "$REPOSITORY" stash create)"  # a commit beside the branch
  SENT="${stash:-$SENT}"
}

# What the workers get: the code, the arguments, two settings. The arguments end
# in NUL and pass through no shell.
pack() {
  local stage="$FOLDER/imagen-$RUN" coordinator=(--coordinator=auto)
  if [[ " ${ARGUMENTS[*]}" == *" --coordinator"* ]]; then coordinator=(); fi
  if [[ -n "$DRY_RUN" ]]; then
    echo "git -C $(printf %q "$REPOSITORY") archive --format=tar.gz" \
      "--output=$(printf %q "$stage")/code.tar.gz ${COMMIT:-HEAD}"
    SHA=SHA256
    return 0
  fi
  rm -rf "$stage"
  mkdir -p "$stage"
  git -C "$REPOSITORY" archive --format=tar.gz "$SENT" > "$stage/code.tar.gz"
  SHA="$(sha256sum < "$stage/code.tar.gz")"
  SHA="${SHA%% *}"
  printf '%s\0' -m imagen_jax train "${ARGUMENTS[@]}" "${coordinator[@]}" \
    > "$stage/command"
  printf '%s=%q\n' BUCKET "$BUCKET" \
    REMOTE_LOGS "${REMOTE_LOGS:+$REMOTE_LOGS/$RUN}" > "$stage/settings"
  cp "$REPOSITORY/launch/tpu/worker.sh" "$stage"
  if [[ -n "$ENV_FILE" ]]; then cp -p "$ENV_FILE" "$stage/env"; fi
}

# Code and environment on every worker; repeated, as both may be.
prepare() {
  local tries log="$FOLDER/setup.log"
  for tries in 0 1 2; do
    if logged "$log" copy_to_workers "$FOLDER/imagen-$RUN" &&
      logged "$log" on_workers all setup "$RUN" "$SHA"; then
      return 0
    fi
    say "setting up the workers failed; the end of $log:"
    tail -n 5 "$log" >&2
    look_at_slice
    if [[ "$STATE" != READY ]]; then return 1; fi
    if ((tries < 2)); then pause "$(back_off "$tries")"; fi
  done
  return 1
}

# Starts the trainer on every worker, or joins the one that runs.
begin() {
  local tries report state attempt newest=0 running=""
  if [[ -n "$DRY_RUN" ]]; then
    read_reports
    on_workers all start "$RUN" 1
    return 0
  fi
  read_reports || true
  for report in "${REPORTS[@]}"; do
    read -r _ _ state attempt _ <<< "$report"
    if [[ "$attempt" == - ]]; then continue; fi
    if ((attempt > newest)); then newest="$attempt"; fi
    if [[ "$state" == running ]]; then running="$attempt"; fi
  done
  if [[ -n "$running" ]]; then
    ATTEMPT="$running"
    say "attempt $ATTEMPT runs already; joined."
  else
    ATTEMPT=$(((newest > ATTEMPT ? newest : ATTEMPT) + 1))
  fi
  mkdir -p "$FOLDER/attempt-$ATTEMPT"
  record start commit "$SENT" slice "$NAME"
  for tries in 0 1 2; do  # an attempt starts once on a worker
    if ask_workers start "$RUN" "$ATTEMPT"; then
      say "attempt $ATTEMPT: $WORKERS workers"
      return 0
    fi
    pause "$(back_off "$tries")"
  done
  say "could not start all workers: $(tail -n 3 "$SCRATCH/ssh.log")"
  return 1
}

# Whether to end by request, or for the cost; sets STOPPED to which.
is_over() {
  if [[ -e "$FOLDER/stop" ]]; then STOPPED="--stop"; fi
  if ((FINISH_AT && $(now) >= FINISH_AT)); then
    STOPPED="--max_hours=$MAX_HOURS"
  fi
  [[ -n "$STOPPED" ]]
}

# Looks at the workers until all have ended; sets CODE and LOST.
watch() {
  local misses=0 failing=0
  if [[ -n "$DRY_RUN" ]]; then
    read_reports
    fetch_log 0
    return 0
  fi
  while :; do
    pause "$POLL_SECONDS"
    if is_over; then
      if ! stop_workers "" || ((RUNNING > 0)); then LOST=yes; fi
      return 0
    fi
    if ! read_reports; then
      look_at_slice
      if [[ "$STATE" == UNKNOWN || "$STATE" == READY ]] &&
        ((++misses < MAX_MISSES)); then
        continue
      fi
      say "the slice is lost ($STATE)."
      if [[ "$STATE" != READY ]]; then WATCHING=""; fi
      LOST=yes
      return 0
    fi
    misses=0
    summarize
    fetch_log 0
    if ((RUNNING == 0)); then return 0; fi
    # One that failed takes the others with it; those that hang are ended.
    if ((CODE != 0 && ++failing > 4)); then stop_workers "" || true; fi
  done
}

# Sets CODE, RUNNING, STEP and CULPRIT from the reports.
summarize() {
  local report worker state code step stopped rank worst=0
  CODE=0 RUNNING=0 CULPRIT=0
  for report in "${REPORTS[@]}"; do
    read -r _ worker state _ code step stopped <<< "$report"
    if [[ "$step" != - ]] && ((step > STEP)); then
      STEP="$step"
      say "attempt $ATTEMPT: checkpoint of step $STEP"
    fi
    if [[ "$stopped" == stopped ]]; then STOPPED="--stop"; fi
    case "$state" in
      running) RUNNING=$((RUNNING + 1)); continue ;;
      ended) ;;
      *) code=143 ;;  # gone without a code
    esac
    rank="$(rank_of "$code")"
    if ((rank > worst)); then worst="$rank" CODE="$code" CULPRIT="$worker"; fi
  done
}

# Of several workers' codes the highest rank says why: a trainer that ends takes
# its peers with it, whose 42, 134 or 1 then mean nothing.
rank_of() {
  case "$1" in
    0) echo 0 ;;
    42) echo 1 ;;
    134) echo 2 ;;
    137 | 143) echo 3 ;;
    2 | 3 | 4 | 5) echo 5 ;;
    *) echo 4 ;;
  esac
}

kind_of() {
  case "$1" in
    0) echo trained ;;
    42 | 134 | 137 | 143) echo restart ;;
    2 | 3 | 4 | 5) echo stop ;;
    *) echo failure ;;
  esac
}

# What worker $1 wrote since the last time. Appended when it is whole, as gcloud
# may run the command twice.
fetch_log() {
  local file="$FOLDER/attempt-$ATTEMPT/worker-$1.log" size=0 LIMIT=300
  if [[ -n "$DRY_RUN" ]]; then
    on_workers "$1" log "$RUN" 1 0
    return 0
  fi
  if [[ -f "$file" ]]; then size="$(stat -c %s "$file")"; fi
  if on_workers "$1" log "$RUN" "$ATTEMPT" "$size" \
    > "$file.new" 2> /dev/null; then
    cat "$file.new" >> "$file"
  fi
  rm -f "$file.new"
}

fetch_logs() {
  local worker
  for ((worker = 0; worker < WORKERS; worker++)); do
    fetch_log "$worker" &
    if ((worker % 8 == 7)); then wait; fi
  done
  wait
}

# stop_workers MARK: SIGTERM to the trainers; they save and end with 42. The
# mark "asked" is for --stop: nobody is to start them again.
stop_workers() {
  say "stopping the trainers (at most $GRACE_SECONDS s)"
  ask_workers stop "$RUN" "$GRACE_SECONDS" ${1:+"$1"} && summarize
}

# After an attempt: logs, ledger, and the failing worker's last lines.
conclude() {
  if [[ -n "$LOST" ]]; then
    CODE=143
  else
    fetch_logs
    WATCHING=""
  fi
  record end code "$CODE" step "$STEP" lost "${LOST:-no}"
  if ((CODE == 0 || CODE == 42)); then return 0; fi
  say "attempt $ATTEMPT ended with code $CODE${LOST:+ (the slice was lost)}" \
    "on worker $CULPRIT:"
  local log="$FOLDER/attempt-$ATTEMPT/worker-$CULPRIT.log"
  if [[ -f "$log" ]]; then tail -n 15 "$log" >&2; fi
}

# Whether to start again after CODE; counts the budgets, says why not.
may_restart() {
  if [[ -n "$STOPPED" ]]; then
    say "ended by $STOPPED."
    return 1
  fi
  case "$(kind_of "$CODE")" in
    restart)
      if ((++PREEMPTIONS > MAX_PREEMPTIONS)); then
        say "$MAX_PREEMPTIONS preemptions are used up (--max_preemptions)."
        return 1
      fi
      ;;
    failure)
      if ((++FAILURES > MAX_FAILURES)); then
        say "$MAX_FAILURES failures are used up (--max_failures)."
        return 1
      fi
      ;;
    *) return 1 ;;
  esac
  if ((STEP > BEST || FIRST)); then
    BEST="$STEP" STALLED=0 FIRST=0
  elif ((++STALLED >= MAX_STALLED)); then
    say "no newer checkpoint than step $STEP in $STALLED restarts."
    return 1
  fi
}

# Sourced by tpu_train.sh: its flags, checked before anything is done.
# shellcheck shell=bash
# shellcheck disable=SC2034  # variables are of the other parts, too

set_defaults() {
  MODE=train DRY_RUN="" KEEP="" QUEUED="" CAPACITY="" ALLOW_DIRTY=""
  RUN="" ACCELERATOR="" RUNTIME="" NETWORK="" SUBNETWORK="" SERVICE_ACCOUNT=""
  ZONE="${IMAGEN_TPU_ZONE:-}" PROJECT="${IMAGEN_TPU_PROJECT:-}" INTERNAL_IPS=""
  BUCKET="" COMMIT="" ENV_FILE="" FOLDER="" REMOTE_LOGS=""
  MAX_HOURS=0 WAIT_HOURS=24 POLL_SECONDS=30 GRACE_SECONDS=300
  MAX_PREEMPTIONS=1000 MAX_FAILURES=2 MAX_STALLED=3
  ARGUMENTS=()
}

parse() {
  local value
  while (($#)); do
    value="${1#*=}"
    case "$1" in
      --) ARGUMENTS=("${@:2}"); return 0 ;;
      --help | -h) usage; exit 0 ;;
      --run=*) RUN="$value" ;;
      --zone=*) ZONE="$value" ;;
      --project=*) PROJECT="$value" ;;
      --accelerator=*) ACCELERATOR="$value" ;;
      --runtime=*) RUNTIME="$value" ;;
      --spot | --reserved) set_once CAPACITY "${1#--}" ;;
      --queued) QUEUED=yes ;;
      --network=*) NETWORK="$value" ;;
      --subnetwork=*) SUBNETWORK="$value" ;;
      --service_account=*) SERVICE_ACCOUNT="$value" ;;
      --internal_ips) INTERNAL_IPS=yes ;;
      --bucket=*) BUCKET="${value%/}" ;;
      --commit=*) COMMIT="$value" ;;
      --allow_dirty) ALLOW_DIRTY=yes ;;
      --env=*) ENV_FILE="$value" ;;
      --logs=*) FOLDER="$value" ;;
      --remote_logs=*) REMOTE_LOGS="${value%/}" ;;
      --keep) KEEP=yes ;;
      --max_hours=*) MAX_HOURS="$value" ;;
      --wait_hours=*) WAIT_HOURS="$value" ;;
      --max_preemptions=*) MAX_PREEMPTIONS="$value" ;;
      --max_failures=*) MAX_FAILURES="$value" ;;
      --max_stalled=*) MAX_STALLED="$value" ;;
      --poll_seconds=*) POLL_SECONDS="$value" ;;
      --grace_seconds=*) GRACE_SECONDS="$value" ;;
      --dry_run) DRY_RUN=yes ;;
      --status | --stop | --cleanup) set_once MODE "${1#--}" train ;;
      *) die "unknown flag $1; see --help. Those of imagen train follow --." ;;
    esac
    shift
  done
}

# set_once VARIABLE VALUE [DEFAULT]: of several flags, one.
set_once() {
  if [[ "${!1}" != "${3:-}" && "${!1}" != "$2" ]]; then
    die "--${!1} and --$2 exclude each other."
  fi
  printf -v "$1" %s "$2"
}

# check FLAG VALUE PATTERN EXAMPLE: what passes needs no quotes in any shell.
check() {
  if [[ ! "$2" =~ ^($3)$ ]]; then
    die "--$1=$(printf %q "$2") is not valid; give for example --$1=$4."
  fi
}

validate() {
  local name variable word='[a-zA-Z0-9][a-zA-Z0-9._/@-]*'
  check run "$RUN" '[a-z][a-z0-9-]{0,40}[a-z0-9]' base
  NAME="imagen-$RUN"
  check zone "$ZONE" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-central2-b
  check project "$PROJECT" '|[a-z0-9.:-]+' my-project
  if [[ "$MODE" == train ]]; then
    ACCELERATOR="${ACCELERATOR/#v5e-/v5litepod-}"
    check accelerator "$ACCELERATOR" 'v[2-6](p|e|litepod)?-[1-9][0-9]*' v4-512
    if ((${#ARGUMENTS[@]} == 0)); then
      die "nothing to train: end with -- and the flags of imagen train."
    fi
  fi
  RUNTIME="${RUNTIME:-$(runtime_of "$ACCELERATOR")}"
  check runtime "$RUNTIME" "$word" tpu-ubuntu2204-base
  check network "$NETWORK" "|$word" default
  check subnetwork "$SUBNETWORK" "|$word" default
  check service_account "$SERVICE_ACCOUNT" "|$word" me@project.example.com
  check bucket "$BUCKET" '|gs://[a-z0-9][a-z0-9._-]+' gs://my-bucket
  check remote_logs "$REMOTE_LOGS" '|gs://[a-z0-9][a-zA-Z0-9._/-]+' gs://b/logs
  check commit "$COMMIT" '|[a-zA-Z0-9][a-zA-Z0-9._/~^-]*' HEAD~1
  for name in max_hours wait_hours max_preemptions max_failures max_stalled \
    poll_seconds grace_seconds; do
    variable="${name^^}"
    check "$name" "${!variable}" '0|[1-9][0-9]{0,6}' 3
  done
  check_env_file
  FOLDER="${FOLDER:-runs/launch/$RUN}"
}

check_env_file() {
  if [[ -z "$ENV_FILE" ]]; then return 0; fi
  if [[ ! -f "$ENV_FILE" ]]; then die "--env=$ENV_FILE is no file."; fi
  if [[ "$(stat -c %a "$ENV_FILE")" != 600 ]]; then
    die "others may read $ENV_FILE; first: chmod 600 $(printf %q "$ENV_FILE")"
  fi
}

runtime_of() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

print_plan() {
  local arguments hours="never" then="what this made is deleted"
  printf -v arguments '%q ' "${ARGUMENTS[@]}"
  if ((MAX_HOURS)); then hours="after $MAX_HOURS hours"; fi
  if [[ -n "$KEEP" ]]; then then="the slice is kept"; fi
  cat << EOF
# run         $RUN, slice $NAME${PROJECT:+ of $PROJECT} in $ZONE
# accelerator $ACCELERATOR, ${CAPACITY:-on demand}${QUEUED:+, queued}, $RUNTIME
# code        commit ${COMMIT:-HEAD}${ALLOW_DIRTY:+ with changes}
# trains      imagen train ${arguments% }
# bucket      ${BUCKET:-none}
# logs        $FOLDER${REMOTE_LOGS:+ and $REMOTE_LOGS}
# restarts    $MAX_PREEMPTIONS preemptions, $MAX_FAILURES failures, \
$MAX_STALLED without progress
# stopped     $hours; at the end $then
EOF
}

# Sourced by every recipe's run.sh: options, stages, done-markers.
#
# A recipe calls `parse_options "$@"`, sets its paths, then `stage NUMBER NAME MARKER READS... -- COMMAND...`
# for each stage, READS being what a user may have edited since. A stage is skipped where its marker says that
# the same command was done with the same content of READS, and no earlier stage was done again since; so
# running a recipe again goes on where the last run stopped. Where a stage runs again, it says why.
# With --dry-run a recipe ends at its trainings, of which it says what they would take.
# Before that a recipe names what it takes besides --attention, --data, --out, --stage, --stop-stage, --dry-run:
# own_options=(--lm) sets $lm, own_switches=(--fast) sets $fast.
# Stages from --stage K on run whatever their markers say.

set -euo pipefail
recipe=$(realpath "$0")
caller=$PWD
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"

attention=mala
first_stage=
stop_stage=99
out=
data=
dry_run=
dry_runs=0
train_options=()
running=
previous_marker=
done_before=
own_options=("${own_options[@]+"${own_options[@]}"}")
own_switches=("${own_switches[@]+"${own_switches[@]}"}")
for option in "${own_options[@]}" "${own_switches[@]}"; do
  declare "$(tr - _ <<< "${option#--}")="
done

die() {
  echo "error: $*" >&2
  exit 1
}

# Not `command || die`: within it, bash would go on after a command of a stage that fails.
trap '[ -z "$running" ] || echo "error: stage $running failed; run the recipe again to go on from here" >&2' EXIT

from_caller() {
  case "$1" in
    "" | /*) echo "$1" ;;
    . | .. | */. | */..) realpath -m --relative-to=. "$caller/$1" ;;
    *) # Where it is a link, its own name counts, whose ending says what it is.
      local folder
      folder=$(realpath -m --relative-to=. "$(dirname "$caller/$1")")
      [ "$folder" = . ] || printf '%s/' "$folder"
      basename "$1"
      ;;
  esac
}

parse_options() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h)
        # The recipe's own header is its help.
        sed -n '2,/^$/s/^# \{0,1\}//p' "$recipe"
        exit 0
        ;;
      --dry-run)
        dry_run=yes
        shift
        ;;
      --)
        shift
        train_options=("$@")
        break
        ;;
      --attention | --stage | --stop-stage | --data | --out)
        [ $# -ge 2 ] || die "$1 wants a value (see --help)"
        case "$1" in
          --attention) attention=$2 ;;
          --stage) first_stage=$2 ;;
          --stop-stage) stop_stage=$2 ;;
          --data) data=$(from_caller "$2") ;;
          --out) out=$(from_caller "$2") ;;
        esac
        shift 2
        ;;
      *)
        if [[ " ${own_switches[*]} " == *" $1 "* ]]; then
          declare -g "$(tr - _ <<< "${1#--}")=yes"
          shift
        elif [[ " ${own_options[*]} " == *" $1 "* ]]; then
          [ $# -ge 2 ] || die "$1 wants a value (see --help)"
          declare -g "$(tr - _ <<< "${1#--}")=$2"
          shift 2
        else
          die "$1: no option of this recipe (see --help)"
        fi
        ;;
    esac
  done
  encoder=${encoder:-conformer} head=${head:-ctc} size=${size:-s} devices=${devices:-1}
  data_root=$(from_caller "${data_root:-}") lm_text=$(from_caller "${lm_text:-}")
  skip_bad=(${skip_bad:+--skip-bad})
  [[ "$head" =~ ^(ctc|transducer|hybrid)$ ]] || die "--head $head: choose ctc, transducer or hybrid"
  [[ "${first_stage:-0}" =~ ^[0-9]+$ ]] || die "--stage $first_stage: not a number"
  [[ "$stop_stage" =~ ^[0-9]+$ ]] || die "--stop-stage $stop_stage: not a number"
  python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("numba") is None)' ||
    die "the Python packages are not there; make environment sets them up"
}

# check_training OPTIONS...: what train.py would say to its options, said before the first stage.
check_training() {
  [ "$stop_stage" -lt 3 ] || python -m asr.training.check "$@" "${train_options[@]+"${train_options[@]}"}"
}

# decode OUT OPTIONS...: decode.py with each head of the model. A hybrid's results lie in a folder each; a
# transducer's weights are tuned on a part of dev, as its search is slow.
decode() {
  local folder=$1
  shift
  case "$head" in
    ctc) python decode.py "$@" --out "$folder" ;;
    transducer) python decode.py "$@" --tune-utterances 300 --out "$folder" ;;
    hybrid)
      python decode.py "$@" --head ctc --out "$folder/ctc"
      python decode.py "$@" --head transducer --tune-utterances 300 --out "$folder/transducer"
      ;;
  esac
}

# show_tables OUT: what decode left there.
show_tables() {
  if [ "$head" = hybrid ]; then cat "$1/ctc/table.txt" "$1/transducer/table.txt"; else cat "$1/table.txt"; fi
}

# inputs READS... -- COMMAND...: the command, and a checksum of each file that it reads. Of a corpus (a folder)
# these are its transcripts; of its recordings there are too many.
inputs() {
  while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
      echo "$(find -L "$1" -name '*.trans.txt' -print0 | LC_ALL=C sort -z | xargs -0r sha256sum | sha256sum | cut -c-64)  $1"
    else
      [ ! -e "$1" ] || sha256sum "$1"
    fi
    shift
  done
  shift
  echo "command: $*"
}

# why_again INPUTS MARKER PREVIOUS_MARKER: why a stage that was done before is not done now; nothing if it is.
why_again() {
  local changed
  changed=$(grep -vxFf "$2" <<< "$1") || changed=$(grep -vxFf <(echo "$1") "$2") || changed=
  case "$changed" in
    "") ! [ "$3" -nt "$2" ] || echo "an earlier stage was done again" ;;
    *command:*) echo "its options changed" ;;
    *) echo "$(head -n 1 <<< "$changed" | cut -c67-) changed" ;;
  esac
}

stage() {
  local number=$1 name=$2 marker=$3 reads=() previous=$previous_marker signature why=
  shift 3
  while [ "$1" != -- ]; do
    reads+=("$1")
    shift
  done
  shift
  previous_marker=$marker
  [ "$number" -ge "${first_stage:-0}" ] && [ "$number" -le "$stop_stage" ] || return 0
  if [ -n "$dry_run" ] && [ "$1 $2" = "python train.py" ]; then
    "$@" --dry-run
    dry_runs=$((dry_runs + 1))
    return 0
  fi
  [ "$dry_runs" = 0 ] || return 0 # nothing is there for what comes after a training
  signature=$(inputs "${reads[@]+"${reads[@]}"}" -- "$@")
  if [ -z "$first_stage" ] && [ -e "$marker" ]; then
    why=$(why_again "$signature" "$marker" "$previous")
    if [ -z "$why" ]; then
      echo "stage $number: $name: done before ($marker)"
      done_before=$number
      return 0
    fi
  fi
  echo "stage $number: $name${why:+: again, as $why}"
  local started=$SECONDS
  running="$number ($name)"
  rm -f "$marker" # or a stage that is stopped half-way would pass for done when the change is taken back
  "$@"
  running=
  mkdir -p "$(dirname "$marker")"
  echo "$signature" > "$marker"
  echo "stage $number: $name: $((SECONDS - started)) s"
}

# Sourced by every recipe's run.sh: options, stages, done-markers.
#
# A recipe sets its defaults, calls `parse_options "$@"`, then one `stage NUMBER NAME MARKER COMMAND...`
# for each of its stages. A stage whose marker exists is skipped, so running again goes on where the
# last run stopped; a stage named with --stage, and those after it, run again whatever their markers say.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"

attention=mala
first_stage=
stop_stage=99
data_root=
lm_text=
size=s
out=
devices=1
train_options=()

die() {
  echo "error: $*" >&2
  exit 1
}

parse_options() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h)
        # The recipe's own header is its help.
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      --)
        shift
        train_options=("$@")
        return
        ;;
      --attention | --stage | --stop-stage | --data-root | --lm-text | --size | --out | --devices)
        [ $# -ge 2 ] || die "$1 wants a value (see --help)"
        case "$1" in
          --attention) attention=$2 ;;
          --stage) first_stage=$2 ;;
          --stop-stage) stop_stage=$2 ;;
          --data-root) data_root=$2 ;;
          --lm-text) lm_text=$2 ;;
          --size) size=$2 ;;
          --out) out=$2 ;;
          --devices) devices=$2 ;;
        esac
        shift 2
        ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
  done
  [[ "${first_stage:-0}$stop_stage" =~ ^[0-9]+$ ]] || die "--stage and --stop-stage want numbers"
}

stage() {
  local number=$1 name=$2 marker=$3
  shift 3
  [ "$number" -ge "${first_stage:-0}" ] && [ "$number" -le "$stop_stage" ] || return 0
  if [ -z "$first_stage" ] && [ -e "$marker" ]; then
    echo "stage $number: $name: done before ($marker)"
    return 0
  fi
  echo "stage $number: $name"
  local started=$SECONDS
  "$@" || die "stage $number ($name) failed; run the same command again to go on from here"
  mkdir -p "$(dirname "$marker")"
  touch "$marker"
  echo "stage $number: $name: $((SECONDS - started)) s"
}

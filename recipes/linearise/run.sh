#!/usr/bin/env bash
# A linear-time model of a softmax one, which teaches it: its attention is replaced by another, whose layers
# learn the teacher's attention, each by itself. That takes recordings, and no transcripts but those of dev and
# test, for the word error rates. Or, with --blocks, a smaller model from random weights.
#
#   bash recipes/linearise/run.sh --from FILE.nemo|FOLDER|CHECKPOINT [--attention NAME] [--data-root DIR]
#        [--recordings DIR] [--blocks N [--patient]] [--distil] [--transcripts] [--lm FILE] [--stage K]
#        [--stop-stage K] [--data DIR] [--out DIR] [--devices N] [--skip-bad] [--dry-run] [-- OPTIONS OF train.py]
#
# --from MODEL      the teacher: a public Conformer-CTC (docs/imports.md), an exported folder, or a checkpoint;
#                   on disk (a name of the hub, hf:OWNER/NAME, is for decode.py).
# --attention NAME  linear, mala (the default), inline, nala, focused, efficient, cosformer, agent, (with
#                   --blocks) softmax, or several with commas, one a layer, repeated over the layers:
#                   mala,mala,mala,softmax.
# --data-root DIR   LibriSpeech, whole or mini, in its own layout: its train-* to learn from, dev-* and test-*
#                   to report on (without test-*, half of dev's speakers). Without it mini LibriSpeech is
#                   downloaded (0.46 GB).
# --recordings DIR  speech without transcripts to learn from as well: a folder, or a list of paths (.txt).
# --blocks N        a student of so many blocks, at most half the teacher's, from random weights: each block learns
#                   what several of the teacher's do, then the whole is put together, then (--patient) it goes on
#                   for long, last it learns from transcripts (which must be the teacher's letters) and from the
#                   teacher's words for --recordings as well.
# --patient         with --blocks: that long training, for a GPU.
# --distil          a second training, in which the whole learns the teacher's last layer. It has raised the word
#                   error rate a little where it was measured (RESULTS.md, "From softmax to linear time").
# --transcripts     a last training, with CTC where there are transcripts, which must be the teacher's letters.
# --lm FILE         n-gram LM (KenLM binary or ARPA) to decode with as well; tuned on dev, for each model.
# --data DIR        where manifests, the teacher and its results go (default data/linearise).
# --devices N       GPUs to train on.
# --skip-bad        leave recordings out that cannot be read, and list them, rather than stop.
# --dry-run         stop before the trainings, and say from a few steps what each would take.
#
# Stages: 0 corpus, 1 teacher, its word error rates (and words), 2 attention (or blocks), 3 distillation (or the
# whole), 4 transcripts, 5 decoding and a paired report on teacher and student. Their configurations:
# recipes/linearise/*.yaml. What stands behind -- goes to all trainings.

own_options=(--from --data-root --recordings --lm --blocks --devices)
own_switches=(--distil --transcripts --patient --skip-bad)
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
[ -n "$from" ] || die "--from: name the model to linearise (see --help)"
from=$(from_caller "$from") recordings=$(from_caller "$recordings") lm=$(from_caller "$lm")
[[ "$blocks" =~ ^([1-9][0-9]*)?$ ]] || die "--blocks $blocks: not a number of blocks"
[ -z "$blocks" ] || [ -z "$distil$transcripts" ] || die "--distil, --transcripts: not with --blocks, which does both"
[ -n "$blocks" ] || [ -z "$patient" ] || die "--patient: wants --blocks"
for path in "$from" "$recordings" "$lm"; do
  [ -z "$path" ] || [ -e "$path" ] || die "$path: no such file or folder"
done
data=${data:-data/linearise}
out=${out:-exp/linearise/$attention${blocks:+-$blocks-blocks}}
teacher=$data/teacher
[ ! "$from" -ef "$teacher" ] || die "--from $from: the recipe writes its teacher there; name another --data"

# The splits: --data-root's own, or those that will be downloaded.
source=(--root data/downloads --download mini)
splits=(train-clean-5 dev-clean-2)
if [ -n "$data_root" ]; then
  source=(--root "$data_root")
  folder=$data_root
  [ ! -d "$folder/LibriSpeech" ] || folder=$folder/LibriSpeech
  mapfile -t splits < <(cd "$folder" && LC_ALL=C ls -d train-*/ dev-*/ test-*/ 2> /dev/null | tr -d /)
fi
train=() dev=() test=()
for split in "${splits[@]+"${splits[@]}"}"; do
  case "$split" in
    train-*) train+=("$split") ;;
    dev-*) dev+=("$split") ;;
    *) test+=("$split") ;;
  esac
done
[ "${#dev[@]}" -gt 0 ] || die "--data-root $data_root: no split dev-* to report on"
halved=()
if [ "${#test[@]}" = 0 ]; then
  halved=("${dev[@]}") dev=(dev) test=(test)
fi
[ -z "$recordings" ] || train+=(recordings)
[ "${#train[@]}" -gt 0 ] || die "--data-root $data_root: no split train-* to learn from, and no --recordings"

in_data() { # the manifests of splits, in the array $manifests
  manifests=("${@/#/$data/}")
  manifests=("${manifests[@]/%/.jsonl}")
}

model=("$teacher"/{config.json,model.safetensors,tokenizer.model})
taught=(--training.teacher "$teacher")
common=(--attention "$attention" --training.devices "$devices"
  --data.folder "$data" --data.train "[$(IFS=, && echo "${train[*]}")]" --data.dev "${dev[0]}"
  --data.tokenizer "$teacher/tokenizer.model" --resume auto)
# The model to begin from need not be there yet.
config=recipes/linearise
if [ -n "$blocks" ]; then
  check_training --out "$out" --config $config/stages.yaml --encoder.layers "$blocks" "${taught[@]}" "${common[@]}"
  for step in whole patient words; do
    check_training --out "$out" --config $config/$step.yaml "${taught[@]}" "${common[@]}"
  done
else # of the three at once
  check_training --out "$out" --config $config/attention.yaml --config $config/distilled.yaml \
    --config $config/transcribed.yaml "${taught[@]}" "${common[@]}"
fi

corpus() {
  python -m data_prep.librispeech "$@" --out "$data" --convert wav
  if [ "${#halved[@]}" -gt 0 ]; then
    in_data "${halved[@]}"
    python -m data_prep.halve --manifest "${manifests[@]}" --out "$data/dev.jsonl" "$data/test.jsonl"
  fi
}

make_teacher() {
  rm -rf "$teacher"
  case "$from" in
    *.nemo) python -m asr.checkpoints import "$from" --out "$teacher" ;;
    *) python -m asr.checkpoints export "$from" --out "$teacher" ;;
  esac
}

# training NUMBER NAME CONFIGURATION [OPTIONS]: from the last one's weights; a dry run has the teacher's alone.
last=$teacher
training() {
  local number=$1 name=$2 folder=$3 config=recipes/linearise/$3.yaml begin
  shift 3
  [ -z "$dry_run" ] || last=$teacher
  begin=(--init "$last" "${taught[@]}")
  [ "$folder" != stages ] || begin=("${taught[@]}" --encoder.layers "$blocks") # from random weights
  in_data "${train[@]}" "${dev[0]}"
  stage "$number" "$name" "$out/.$folder.done" "$config" "${model[@]}" "${manifests[@]}" \
    "${train_options[@]+"${train_options[@]}"}" -- \
    python train.py --config "$config" "${begin[@]}" "${common[@]}" --out "$out/$folder" "$@" \
    "${train_options[@]+"${train_options[@]}"}"
  last=$out/$folder/checkpoints/last.ckpt
}

decoding() { # MODEL OPTIONS OF decode.py
  python decode.py --checkpoint "$1" "${@:2}" --out "$out/results"
  python -m asr.scoring.report "$data/teacher-results" "$out/results" --out "$out/report" > /dev/null
}

stage 0 "corpus" "$data/.corpus.done" "$data_root" -- \
  corpus "${source[@]}" --splits "${splits[@]}" "${skip_bad[@]+"${skip_bad[@]}"}"
if [ -n "$recordings" ]; then
  stage 0 "recordings" "$data/.recordings.done" "$recordings" -- \
    python -m data_prep.folder --recordings "$recordings" --out "$data/recordings.jsonl" \
    "${skip_bad[@]+"${skip_bad[@]}"}"
fi
files=("$from")
[ ! -d "$from" ] || files=("$from"/*)
stage 1 "teacher" "$data/.teacher.done" "${files[@]}" -- make_teacher
reported=(--data "$data" --splits "${dev[@]}" "${test[@]}")
[ -z "$lm" ] || reported+=(--lm "$lm" --tune-on "${dev[@]}")
in_data "${dev[@]}" "${test[@]}"
stage 1 "the teacher's word error rates" "$data/.teacher-results.done" "${manifests[@]}" "$lm" -- \
  python decode.py --checkpoint "$teacher" "${reported[@]}" --out "$data/teacher-results"
if [ -n "$blocks" ] && [ -n "$recordings" ] && [ -z "$dry_run" ]; then # all students of this --data learn from them
  stage 1 "the teacher's words" "$data/.words.done" "${model[@]}" "$data/recordings.jsonl" -- \
    python -m data_prep.words --checkpoint "$teacher" --manifest "$data/recordings.jsonl" --out "$data/words.jsonl"
fi
if [ -n "$blocks" ]; then
  training 2 "blocks" stages
  if [ -z "$dry_run" ]; then # which has no student to begin from
    training 3 "the whole" whole
    [ -z "$patient" ] || training 3 "the whole, patiently" patient
    train=("${train[@]/%recordings/words}")
    training 4 "transcripts" words --data.train "[$(IFS=, && echo "${train[*]}")]"
  fi
else
  training 2 "attention" attention
  [ -z "$distil" ] || training 3 "distillation" distilled
fi
if [ -n "$transcripts" ]; then
  training 4 "transcripts" transcribed
fi
in_data "${dev[@]}" "${test[@]}"
stage 5 "decoding" "$out/.decoding.done" "${manifests[@]}" "$lm" -- decoding "$last" "${reported[@]}"
# Both tables and how they differ; the errors themselves are in the folder.
if [ "$stop_stage" -ge 5 ] && [ -z "$dry_run" ]; then
  sed '/^How to read this/,$d' "$out/report/report.txt"
fi

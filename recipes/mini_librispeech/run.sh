#!/usr/bin/env bash
# Mini LibriSpeech: 5.3 hours of read speech (OpenSLR 31), for one GPU (--size s) or, to see every stage
# work on real speech, a CPU (--size xs).
#
#   bash recipes/mini_librispeech/run.sh [--attention NAME] [--encoder conformer|fastconformer] [--size s|xs]
#        [--head ctc|transducer|hybrid] [--devices N] [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--data DIR] [--out DIR]
#        [--synthetic HOURS|no] [--synthetic-steps N] [--skip-bad] [--dry-run] [-- OPTIONS OF train.py]
#
# --attention NAME  softmax, linear, mala (the default), inline, nala, focused, efficient, cosformer, agent,
#                   or several with commas, one a layer, repeated over the layers: mala,mala,mala,softmax.
# --encoder NAME    conformer (40 ms frames) or fastconformer (80 ms frames by depthwise subsampling: cheaper).
# --head NAME       ctc (the default), transducer, or hybrid: both, each decoded by itself.
# --data-root DIR   a folder in LibriSpeech's layout with train-clean-5 and dev-clean-2 (or dev-clean-half,
#                   or dev-clean); without it the corpus is downloaded from OpenSLR (0.46 GB).
# --lm-text FILE    text for 3-gram and 4-gram LMs, plain, .gz or .xz, one sentence a line; without it
#                   LibriSpeech's own pruned 3-gram is downloaded from OpenSLR 11.
# --synthetic HOURS begin with synthetic speech: train on the demo's 1.3 h of made-up sentences alone, then on
#                   them, the corpus, and HOURS of sentences of --lm-text (0: none) together, all read by
#                   espeak-ng. This takes a model past CTC's plateau, on which five hours of speech leave it for
#                   long. no: the corpus alone. (Default: 0 for conformer xs, with which it was measured; else no.)
# --synthetic-steps N  of the training on synthetic speech alone (default 800).
# --devices N       GPUs to train on.
# --data DIR        where manifests, tokenizer and language models go (default data/mini_librispeech).
# --skip-bad        leave recordings out that cannot be read, and list them, rather than stop.
# --dry-run         stop before training, and say from a few steps what it would take.
#
# Stages: 0 corpus, 1 synthetic speech, 2 tokenizer, 3 language models, 4 training on synthetic speech,
# 5 training, 6 decoding.
# The corpus has no test set: half of the dev speakers are for validation and tuning (dev), the other half
# for the table (test).

own_options=(--encoder --size --head --devices --data-root --lm-text --synthetic --synthetic-steps)
own_switches=(--skip-bad)
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
synthetic_steps=${synthetic_steps:-800}
data=${data:-data/mini_librispeech}
name=$attention-$size
[ "$encoder" = conformer ] || name=$encoder-$name
[ "$head" = ctc ] || name=$name-$head
out=${out:-exp/mini_librispeech/$name}
config=recipes/mini_librispeech/${encoder}_$size.yaml
[ -f "$config" ] || die "--encoder $encoder, --size $size: choose conformer or fastconformer, and s or xs"
training=(--config "$config" --head "$head" --attention "$attention" --out "$out" --training.devices "$devices"
  --data.folder "$data" --data.tokenizer "$data/tokenizer.model" --resume auto)
[ -n "$synthetic" ] || case "$encoder-$size" in conformer-xs) synthetic=0 ;; *) synthetic=no ;; esac
[[ "$synthetic" =~ ^([0-9]+([.][0-9]+)?|no)$ ]] || die "--synthetic $synthetic: neither hours nor 'no'"
[[ "$synthetic" =~ ^(0|no)$ ]] || [ -n "$lm_text" ] || die "--synthetic $synthetic: sentences to read come from --lm-text"
check_training "${training[@]}"
# After the user's options: their steps and batches are meant for the training that follows.
first=("${training[@]}" "${train_options[@]+"${train_options[@]}"}" --config recipes/mini_librispeech/synthetic.yaml
  --training.steps "$synthetic_steps" --out "$out/synthetic")
[ "$synthetic" = no ] || [ "$stop_stage" -lt 4 ] || python -m asr.training.check "${first[@]}"

dev=dev-clean-2
source=(--root data/downloads --download mini)
if [ -n "$data_root" ]; then
  source=(--root "$data_root")
  for dev in dev-clean-2 dev-clean-half dev-clean; do
    if [ -d "$data_root/$dev" ] || [ -d "$data_root/LibriSpeech/$dev" ]; then break; fi
  done
fi
lm=(--arpa data/downloads/3-gram.pruned.1e-7.arpa.gz)
orders=3
if [ -n "$lm_text" ]; then
  lm=(--text "$lm_text" --vocab-size 200000 --prune 0 0 1) # as OpenSLR's
  orders="3 4"
fi

corpus() {
  python -m data_prep.librispeech "$@" --out "$data" --convert wav
  python -m data_prep.halve --manifest "$data/$dev.jsonl" --out "$data/dev.jsonl" "$data/test.jsonl"
}

language_models() {
  rm -f "$data"/?gram.bin "$data"/?gram.bin.sha256
  [ -n "$lm_text" ] || python -m data_prep.openslr_lm --which 3-gram.pruned.1e-7 --out data/downloads
  for order in $orders; do
    python -m asr.lm "$@" --order "$order" --out "$data/${order}gram.bin" --dev "$data/dev.jsonl"
  done
}

synthetic_speech() {
  python -m data_prep.synthetic --out "$data/grammar" --test 1
  [ "$1" = 0 ] ||
    python -m data_prep.synthetic --out "$data/read" --text "$lm_text" --hours "$1" --dev 1 --test 1
}

decoding() {
  for lm in "$data"/?gram.bin; do
    decode "$out/results/$(basename "$lm" .bin)" "$@" --lm "$lm"
  done
}

stage 0 "corpus" "$data/.corpus.done" "$data_root" -- \
  corpus "${source[@]}" --splits train-clean-5 "$dev" "${skip_bad[@]+"${skip_bad[@]}"}"
splits=(train-clean-5)
pieces=256
second=() # what the training on all of it has besides
if [ "$synthetic" != no ]; then
  splits+=(grammar/train)
  reads=
  [ "$synthetic" = 0 ] || { splits+=(read/train) && reads=$lm_text; }
  stage 1 "synthetic speech" "$data/.synthetic.done" "$reads" -- synthetic_speech "$synthetic"
  pieces=128 # as the way past the plateau was measured
  second=(--data.train "[$(IFS=,; echo "${splits[*]}")]" --training.intermediate 0.3)
  [ -n "$dry_run" ] || second+=(--init "$out/synthetic/checkpoints/last.ckpt")
fi
manifests=("${splits[@]/%/.jsonl}")
manifests=("${manifests[@]/#/$data/}")
stage 2 "tokenizer" "$data/.tokenizer.done" "${manifests[@]}" -- \
  python -m asr.data.tokenizer --manifest "${manifests[@]}" --pieces "$pieces" --out "$data/tokenizer.model"
stage 3 "language models" "$data/.lm.done" "$lm_text" -- language_models "${lm[@]}"
if [ "$synthetic" != no ] && [ -z "$dry_run" ]; then
  stage 4 "training on synthetic speech" "$out/synthetic/.training.done" \
    "$config" recipes/mini_librispeech/synthetic.yaml \
    "$data/tokenizer.model" "$data/grammar/train.jsonl" "$data/grammar/dev.jsonl" \
    "${train_options[@]+"${train_options[@]}"}" -- python train.py "${first[@]}"
fi
stage 5 "training" "$out/.training.done" \
  "$config" "$data/tokenizer.model" "${manifests[@]}" "$data/dev.jsonl" \
  "${train_options[@]+"${train_options[@]}"}" -- \
  python train.py "${training[@]}" "${second[@]+"${second[@]}"}" "${train_options[@]+"${train_options[@]}"}"
stage 6 "decoding" "$out/.decoding.done" "$data/dev.jsonl" "$data/test.jsonl" -- \
  decoding --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data" \
  --splits dev test --tune-on dev
if [ "$done_before" = 6 ]; then
  for lm in "$data"/?gram.bin; do # those of now: an earlier run may have left tables of others
    show_tables "$out/results/$(basename "$lm" .bin)"
  done
fi

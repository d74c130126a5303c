#!/usr/bin/env bash
# Mini LibriSpeech: 5.3 hours of read speech (OpenSLR 31), for one GPU (--size s) or, to see every stage
# work on real speech, a CPU (--size xs).
#
#   bash recipes/mini_librispeech/run.sh [--attention NAME] [--encoder conformer|fastconformer] [--size s|xs]
#        [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--data DIR] [--out DIR]
#        [--skip-bad] [--dry-run] [-- OPTIONS OF train.py]
#
# --attention NAME  softmax, linear, mala (the default), inline, nala, focused, efficient, cosformer, agent,
#                   or several with commas, one a layer, repeated over the layers: mala,mala,mala,softmax.
# --encoder NAME    conformer (40 ms frames) or fastconformer (80 ms frames by depthwise subsampling: cheaper).
# --data-root DIR   a folder in LibriSpeech's layout with train-clean-5 and dev-clean-2 (or dev-clean-half,
#                   or dev-clean); without it the corpus is downloaded from OpenSLR (0.46 GB).
# --lm-text FILE    text for 3-gram and 4-gram LMs, plain, .gz or .xz, one sentence a line; without it
#                   LibriSpeech's own pruned 3-gram is downloaded from OpenSLR 11.
# --data DIR        where manifests, tokenizer and language models go (default data/mini_librispeech).
# --skip-bad        leave recordings out that cannot be read, and list them, rather than stop.
# --dry-run         stop before training, and say from a few steps what it would take.
#
# Stages: 0 corpus, 1 tokenizer, 2 language models, 3 training, 4 decoding.
# The corpus has no test set: half of the dev speakers are for validation and tuning (dev), the other half
# for the table (test).

source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
data=${data:-data/mini_librispeech}
name=$attention-$size
[ "$encoder" = conformer ] || name=$encoder-$name
out=${out:-exp/mini_librispeech/$name}
config=recipes/mini_librispeech/${encoder}_$size.yaml
[ -f "$config" ] || die "--encoder $encoder, --size $size: choose conformer or fastconformer, and s or xs"
training=(--config "$config" --attention "$attention" --out "$out" --training.devices "$devices"
  --data.folder "$data" --data.tokenizer "$data/tokenizer.model" --resume auto)
check_training "${training[@]}"

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

decoding() {
  for lm in "$data"/?gram.bin; do
    python decode.py "$@" --lm "$lm" --out "$out/results/$(basename "$lm" .bin)"
  done
}

stage 0 "corpus" "$data/.corpus.done" "$data_root" -- \
  corpus "${source[@]}" --splits train-clean-5 "$dev" "${skip_bad[@]+"${skip_bad[@]}"}"
stage 1 "tokenizer" "$data/.tokenizer.done" "$data/train-clean-5.jsonl" -- \
  python -m asr.data.tokenizer --manifest "$data/train-clean-5.jsonl" --pieces 256 --out "$data/tokenizer.model"
stage 2 "language models" "$data/.lm.done" "$lm_text" -- language_models "${lm[@]}"
stage 3 "training" "$out/.training.done" \
  "$config" "$data/tokenizer.model" "$data/train-clean-5.jsonl" "$data/dev.jsonl" \
  "${train_options[@]+"${train_options[@]}"}" -- \
  python train.py "${training[@]}" "${train_options[@]+"${train_options[@]}"}"
stage 4 "decoding" "$out/.decoding.done" "$data/dev.jsonl" "$data/test.jsonl" -- \
  decoding --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data" \
  --splits dev test --tune-on dev
[ "$done_before" != 4 ] || tail -n +1 "$out"/results/*/table.txt

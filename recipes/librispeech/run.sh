#!/usr/bin/env bash
# LibriSpeech, 960 hours: corpus -> tokeniser -> 4-gram LM -> training -> table for dev-clean, dev-other,
# test-clean and test-other.
#
#   bash recipes/librispeech/run.sh [--attention mala|linear|softmax] [--size s|m|l] [--devices N]
#        [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--data DIR] [--out DIR]
#        [--skip-bad] [-- OPTIONS OF train.py]
#
# --data-root DIR   LibriSpeech in its own layout; without it all seven archives are downloaded from
#                   OpenSLR 12 (61 GB, and as much again unpacked) to data/downloads.
# --lm-text FILE    build the 4-gram from this text; without it OpenSLR 11's 4-gram is downloaded.
# --devices N       GPUs. Each takes the configuration's seconds of audio a batch: with N of them, give
#                   -- --training.accumulate, or --training.seconds, N times smaller for the same step.
# --data DIR        where manifests, tokeniser and language models go (default data/librispeech).
# --skip-bad        leave recordings out that cannot be read, and list them, rather than stop.
#
# Stages: 0 corpus, 1 tokeniser, 2 language model, 3 training, 4 decoding.

source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
data=${data:-data/librispeech}
out=${out:-exp/librispeech/$attention-$size}
config=recipes/librispeech/conformer_$size.yaml
[ -f "$config" ] || die "--size $size: choose one of s, m, l"
training=(--config "$config" --attention "$attention" --out "$out" --training.devices "$devices"
  --data.folder "$data" --data.tokenizer "$data/tokenizer.model" --resume auto)
check_training "${training[@]}"

corpus() {
  local source=(--root "$data_root")
  [ -n "$data_root" ] || source=(--root data/downloads --download full)
  python -m data_prep.librispeech "${source[@]}" --out "$data" "${skip_bad[@]+"${skip_bad[@]}"}" --splits \
    train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other
}

tokeniser() {
  python -m asr.tokenizer --pieces 256 --out "$data/tokenizer.model" \
    --manifest "$data/train-clean-100.jsonl" "$data/train-clean-360.jsonl" "$data/train-other-500.jsonl"
}

language_model() {
  if [ -n "$lm_text" ]; then
    python -m asr.lm --text "$lm_text" --order 4 --out "$data/4gram.bin" --dev "$data/dev-clean.jsonl"
  else
    python -m data_prep.openslr_lm --which 4-gram --out data/downloads
    python -m asr.lm --arpa data/downloads/4-gram.arpa.gz --out "$data/4gram.bin" --dev "$data/dev-clean.jsonl"
  fi
}

stage 0 "corpus" "$data/.corpus.done" corpus
stage 1 "tokeniser" "$data/.tokenizer.done" tokeniser
stage 2 "language model" "$data/.lm.done" language_model
stage 3 "training" "$out/.training.done" \
  python train.py "${training[@]}" "${train_options[@]+"${train_options[@]}"}"
stage 4 "decoding" "$out/.decoding.done" \
  python decode.py --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data" \
  --splits dev-clean dev-other test-clean test-other --tune-on dev-clean dev-other \
  --lm "$data/4gram.bin" --out "$out/results"
[ "$done_before" != 4 ] || cat "$out/results/table.txt"

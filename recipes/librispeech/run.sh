#!/usr/bin/env bash
# LibriSpeech, 960 hours: download -> manifests -> tokeniser -> 4-gram LM -> training -> table for
# dev-clean, dev-other, test-clean and test-other.
#
#   bash recipes/librispeech/run.sh [--attention mala|linear|softmax] [--size s|m|l] [--devices N]
#        [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--out DIR] [-- OPTIONS OF train.py]
#
# --data-root DIR   LibriSpeech in its own layout; without it all seven archives are downloaded from
#                   OpenSLR 12 (61 GB, and as much again unpacked) to data/downloads.
# --lm-text FILE    build the 4-gram from this text; without it OpenSLR 11's 4-gram is downloaded.
#
# Stages: 0 download, 1 manifests, 2 tokeniser, 3 language model, 4 training, 5 decoding.

source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"
parse_options "$@"
data=data/librispeech
out=${out:-exp/librispeech/$attention-$size}
root=${data_root:-data/downloads}
config=recipes/librispeech/conformer_$size.yaml
[ -f "$config" ] || die "--size $size: choose one of s, m, l"

download() {
  if [ -z "$data_root" ]; then
    python -m data_prep.librispeech --root "$root" --out "$data" --download full --download-only
  fi
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

stage 0 "download" "$data/.download.done" download
stage 1 "manifests" "$data/.manifests.done" \
  python -m data_prep.librispeech --root "$root" --out "$data" --splits \
  train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other
stage 2 "tokeniser" "$data/.tokenizer.done" tokeniser
stage 3 "language model" "$data/.lm.done" language_model
stage 4 "training" "$out/.training.done" \
  python train.py --config "$config" --attention "$attention" --out "$out" \
  --training.devices "$devices" --resume auto "${train_options[@]}"
stage 5 "decoding" "$out/.decoding.done" \
  python decode.py --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data" \
  --splits dev-clean dev-other test-clean test-other --tune-on dev-clean dev-other \
  --lm "$data/4gram.bin" --out "$out/results"

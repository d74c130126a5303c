#!/usr/bin/env bash
# Mini LibriSpeech: 5.3 hours of read speech (OpenSLR 31), trained on one GPU (--size s) or, to see it work, on a CPU (--size xs).
#
#   bash recipes/mini_librispeech/run.sh [--attention mala|linear|softmax] [--size s|xs]
#        [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--out DIR] [-- OPTIONS OF train.py]
#
# --data-root DIR   a folder with train-clean-5 and a dev-clean-* split in LibriSpeech's layout; without
#                   it the corpus is downloaded from OpenSLR (0.46 GB) to data/downloads.
# --lm-text FILE    text for 3-gram and 4-gram LMs, plain, .gz or .xz, one sentence a line; without it
#                   LibriSpeech's own pruned 3-gram is downloaded from OpenSLR 11.
#
# Stages: 0 corpus, 1 tokeniser, 2 language models, 3 training, 4 decoding.
# The corpus has no test set: half of the dev speakers are for validation and tuning (dev), the other half
# for the table (test).

source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"
parse_options "$@"
data=data/mini_librispeech
out=${out:-exp/mini_librispeech/$attention-$size}
config=recipes/mini_librispeech/conformer_$size.yaml
[ -f "$config" ] || die "--size $size: choose s or xs"

corpus() {
  local source=(--root "$data_root")
  [ -n "$data_root" ] || source=(--root data/downloads --download mini)
  python -m data_prep.librispeech "${source[@]}" --out "$data" --convert wav
  python -m data_prep.halve --manifest "$data"/dev-clean-*.jsonl --out "$data/dev.jsonl" "$data/test.jsonl"
}

language_models() {
  if [ -z "$lm_text" ]; then
    python -m data_prep.openslr_lm --which 3-gram.pruned.1e-7 --out data/downloads
    python -m asr.lm --arpa data/downloads/3-gram.pruned.1e-7.arpa.gz --out "$data/3gram.bin" --dev "$data/dev.jsonl"
    return
  fi
  for order in 3 4; do
    python -m asr.lm --text "$lm_text" --order $order --out "$data/${order}gram.bin" --dev "$data/dev.jsonl"
  done
}

decoding() {
  for lm in "$data"/?gram.bin; do
    echo "$(basename "$lm" .bin):"
    python decode.py --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data" \
      --splits dev test --tune-on dev --lm "$lm" --out "$out/results/$(basename "$lm" .bin)"
  done
}

stage 0 "corpus" "$data/.corpus.done" corpus
stage 1 "tokeniser" "$data/.tokenizer.done" \
  python -m asr.tokenizer --manifest "$data/train-clean-5.jsonl" --pieces 256 --out "$data/tokenizer.model"
stage 2 "language models" "$data/.lm.done" language_models
stage 3 "training" "$out/.training.done" \
  python train.py --config "$config" --attention "$attention" \
  --out "$out" --resume auto "${train_options[@]}"
stage 4 "decoding" "$out/.decoding.done" decoding

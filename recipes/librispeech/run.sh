#!/usr/bin/env bash
# LibriSpeech, 960 hours: corpus -> packing -> tokenizer -> 4-gram LM -> training -> table for dev-clean,
# dev-other, test-clean and test-other.
#
#   bash recipes/librispeech/run.sh [--attention NAME] [--encoder conformer|fastconformer] [--size s|m|l]
#        [--head ctc|transducer|hybrid] [--devices N] [--data-root DIR] [--lm-text FILE] [--stage K] [--stop-stage K] [--data DIR] [--out DIR]
#        [--skip-bad] [--dry-run] [-- OPTIONS OF train.py]
#
# --attention NAME  softmax, linear, mala (the default), inline, nala, focused, efficient, cosformer, agent,
#                   or several with commas, one a layer, repeated over the layers: mala,mala,mala,softmax.
# --encoder NAME    conformer (40 ms frames) or fastconformer (80 ms frames by depthwise subsampling: cheaper).
# --head NAME       ctc (the default), transducer, or hybrid: both, each decoded by itself.
#                   With either transducer, conformer of size s is the Conformer paper's, with its 1000 pieces.
# --data-root DIR   LibriSpeech in its own layout; without it all seven archives are downloaded from
#                   OpenSLR 12 (61 GB, and as much again unpacked) to data/downloads.
# --lm-text FILE    build the 4-gram from this text; without it OpenSLR 11's 4-gram is downloaded.
# --devices N       GPUs. Each takes the configuration's seconds of audio a batch: with N of them, give
#                   -- --training.accumulate, or --training.seconds, N times smaller for the same step.
# --data DIR        where manifests, tokenizer and language models go (default data/librispeech), and in its
#                   folder packed the recordings as samples, which training and decoding read (113 GB).
# --skip-bad        leave recordings out that cannot be read, and list them, rather than stop.
# --dry-run         stop before training, and say from a few steps what it would take.
#
# Stages: 0 corpus, 1 packing, 2 tokenizer, 3 language model, 4 training, 5 decoding.

own_options=(--encoder --size --head --devices --data-root --lm-text)
own_switches=(--skip-bad)
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
splits=(train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other)
data=${data:-data/librispeech}
name=$attention-$size
[ "$encoder" = conformer ] || name=$encoder-$name
[ "$head" = ctc ] || name=$name-$head
out=${out:-exp/librispeech/$name}
config=recipes/librispeech/${encoder}_$size.yaml
pieces=256 tokenizer=tokenizer
if [ "$head" != ctc ] && [ "$encoder-$size" = conformer-s ]; then
  config=recipes/librispeech/conformer_s_transducer.yaml pieces=1000 tokenizer=tokenizer-1000
fi
[ -f "$config" ] || die "--encoder $encoder, --size $size: choose conformer or fastconformer, and s, m or l"
training=(--config "$config" --head "$head" --attention "$attention" --out "$out" --training.devices "$devices"
  --data.folder "$data/packed" --data.tokenizer "$data/$tokenizer.model" --resume auto)
check_training "${training[@]}"

source=(--root data/downloads --download full)
[ -z "$data_root" ] || source=(--root "$data_root")
lm=(--arpa data/downloads/4-gram.arpa.gz)
# With the vocabulary and the cut-offs of OpenSLR's.
[ -z "$lm_text" ] || lm=(--text "$lm_text" --order 4 --vocab-size 200000 --prune 0 0 1)

language_model() {
  [ -n "$lm_text" ] || python -m data_prep.openslr_lm --which 4-gram --out data/downloads
  python -m asr.lm "$@"
}

if ! [ -e "$data/.packing.done" ] && [ "${first_stage:-0}" -le 1 ] && [ "$stop_stage" -ge 1 ]; then
  echo "LibriSpeech, 982 hours with dev and test. To come:"
  [ -n "$data_root" ] || echo "  61 GB to fetch and 61 GB unpacked in data/downloads: 20 minutes at 50 MB/s"
  [ -n "$lm_text" ] || echo "  1.4 GB to fetch for the 4-gram, and several GB as a KenLM binary in $data"
  echo "  113 GB of packed samples in $data/packed: about a quarter of an hour on one core, disk permitting"
  echo "  training: run this with --dry-run to see what it would take here"
fi
train_manifests=(train-clean-100.jsonl train-clean-360.jsonl train-other-500.jsonl)
manifests=("${splits[@]/%/.jsonl}")
stage 0 "corpus" "$data/.corpus.done" "$data_root" -- \
  python -m data_prep.librispeech "${source[@]}" --out "$data" "${skip_bad[@]+"${skip_bad[@]}"}" \
  --splits "${splits[@]}"
stage 1 "packing" "$data/.packing.done" "${manifests[@]/#/$data/}" -- \
  python -m data_prep.pack --data "$data" --splits "${splits[@]}"
stage 2 "tokenizer" "$data/.$tokenizer.done" "${train_manifests[@]/#/$data/}" -- \
  python -m asr.data.tokenizer --pieces "$pieces" --out "$data/$tokenizer.model" \
  --manifest "${train_manifests[@]/#/$data/}"
stage 3 "language model" "$data/.lm.done" "$lm_text" -- \
  language_model "${lm[@]}" --out "$data/4gram.bin" --dev "$data/dev-clean.jsonl"
stage 4 "training" "$out/.training.done" \
  "$config" "$data/$tokenizer.model" "${manifests[@]/#/$data/packed/}" \
  "${train_options[@]+"${train_options[@]}"}" -- \
  python train.py "${training[@]}" "${train_options[@]+"${train_options[@]}"}"
stage 5 "decoding" "$out/.decoding.done" "${manifests[@]/#/$data/packed/}" -- \
  decode "$out/results" --checkpoint "$out/checkpoints/best.ckpt" --attention "$attention" --data "$data/packed" \
  --splits dev-clean dev-other test-clean test-other --tune-on dev-clean dev-other \
  --lm "$data/4gram.bin"
[ "$done_before" != 5 ] || show_tables "$out/results"

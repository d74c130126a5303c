#!/usr/bin/env bash
# The whole path in minutes on two CPU cores: synthetic speech -> tokenizer -> n-gram LM -> training ->
# decoding -> table of word error rates. The speech is made by espeak-ng: it shows that everything works
# and says nothing about recognising people.
#
#   bash recipes/demo/run.sh [--attention NAME] [--encoder conformer|fastconformer]
#        [--head ctc|transducer|hybrid] [--stage K] [--stop-stage K] [--out DIR] [--data DIR] [-- OPTIONS OF train.py]
#
# --attention NAME  softmax, linear, mala (the default), inline, nala, focused, efficient, cosformer, agent,
#                   or several with commas, one a layer, repeated over the layers: mala,mala,mala,softmax.
# --encoder NAME    conformer (40 ms frames) or fastconformer (80 ms frames by depthwise subsampling: cheaper).
# --head NAME       ctc (the default), transducer, or hybrid: both, each decoded by itself.
# --data DIR   where the corpus is made (default data/demo).
#
# Stages: 0 corpus, 1 tokenizer, 2 language model, 3 training, 4 decoding.

own_options=(--encoder --head)
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../stages.sh"
parse_options "$@"
data=${data:-data/demo}
name=$attention
[ "$encoder" = conformer ] || name=$encoder-$name
[ "$head" = ctc ] || name=$name-$head
out=${out:-exp/demo/$name}
config=recipes/demo/${encoder}_xs.yaml
[ -f "$config" ] || die "--encoder $encoder: choose conformer or fastconformer"
training=(--config "$config" --head "$head" --attention "$attention" --out "$out"
  --data.folder "$data" --data.tokenizer "$data/tokenizer.model" --resume auto)
check_training "${training[@]}"

stage 0 "synthetic corpus" "$data/.corpus.done" -- python -m data_prep.synthetic --out "$data"
stage 1 "tokenizer" "$data/.tokenizer.done" "$data/train.jsonl" -- \
  python -m asr.data.tokenizer --manifest "$data/train.jsonl" --pieces 128 --out "$data/tokenizer.model"
stage 2 "language model" "$data/.lm.done" "$data/lm.txt" -- \
  python -m asr.lm --text "$data/lm.txt" --order 3 --out "$data/3gram.bin" --dev "$data/dev.jsonl"
stage 3 "training" "$out/.training.done" \
  "$config" "$data/tokenizer.model" "$data/train.jsonl" "$data/dev.jsonl" \
  "${train_options[@]+"${train_options[@]}"}" -- \
  python train.py "${training[@]}" "${train_options[@]+"${train_options[@]}"}"
stage 4 "decoding" "$out/.decoding.done" "$data/dev.jsonl" "$data/test.jsonl" -- \
  decode "$out/results" --checkpoint "$out/checkpoints/last.ckpt" --attention "$attention" \
  --data "$data" --splits test --lm "$data/3gram.bin"
[ "$done_before" != 4 ] || show_tables "$out/results"

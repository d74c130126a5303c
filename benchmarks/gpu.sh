#!/usr/bin/env bash
# Every table that wants a GPU, in a text file each: bash benchmarks/gpu.sh OUT
#
# On one GPU, within an hour. A benchmark that fails leaves its message in its file, and the others go on.

set -uo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"
out=${1:?"give a folder to write the tables to"}
mkdir -p "$out"
failed=0

table() {
  local name=$1
  shift
  echo "$name: $*"
  timeout 600 "$@" > "$out/$name.txt" 2>&1 || { echo "  failed, see $out/$name.txt"; failed=1; }
}

table kernels python -m pytest tests/asr/attention/test_kernels.py tests/asr/attention/test_flash.py
table attention python benchmarks/attention.py --device cuda --attention linear inline mala
table softmax python benchmarks/attention.py --device cuda --no-compile \
  --attention mala softmax softmax:none softmax:relative
table padding python benchmarks/attention.py --device cuda --no-compile --shapes 64x375 64x1500 --shortest 0.3 \
  --attention mala softmax softmax:relative
table depthwise python benchmarks/cpu.py --device cuda
table step python benchmarks/step.py --encoders mala linear softmax:rotary softmax torchaudio
table step-compiled python benchmarks/step.py --compile --encoders mala linear softmax:rotary softmax torchaudio
table step-eager python benchmarks/step.py --kernels eager --encoders mala linear softmax:rotary softmax
table levers python benchmarks/levers.py
table long-audio python benchmarks/long_audio.py --device cuda
exit $failed

"""sherpa-onnx itself on the three graphs of a transducer, beside our own greedy decoding.

In an environment of its own:

    uv venv sherpa && uv pip install --python sherpa/bin/python --constraint constraints.txt \\
        sherpa-onnx==2.0.1 kaldi-native-fbank==1.23.0 -e '.[onnx]'
    sherpa/bin/python benchmarks/sherpa.py          # random models of all mechanisms and more; or names
    sherpa/bin/python benchmarks/sherpa.py mala softmax-8x-durations --audio a.wav b.wav
    sherpa/bin/python benchmarks/sherpa.py --model MODEL --audio a.wav b.wav        # a trained one

Each is exported, in a process of its own (sherpa-onnx brings another ONNX Runtime), and loaded by
sherpa_onnx.OfflineRecognizer. Columns: how many of its texts, with the times of their pieces, are ours on the
same features, and on ours, which is what decode.py says; letters of all. Its features (kaldi-native-fbank's,
made again here) are not quite NeMo's: a Povey window whose middle is 5 ms later, and mel filters to 7.6 kHz.
Random models hear that; ones that have learnt to transcribe should not.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from common import ROOT, make_parser
from imports import make_recordings, train_benchmark_tokenizer
from torch import Tensor

from asr.attention import ATTENTIONS
from asr.checkpoints.checkpoint import Recipe, load_model
from asr.checkpoints.folder import write_folder
from asr.data import audio
from asr.data.tokenizer import Tokenizer
from asr.decoding.label_looping import Hypothesis, transducer_greedy
from asr.errors import UserError, run_program
from asr.model.classes import BLANK
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig, SubsamplingConfig
from asr.model.frames import HOP, SAMPLE_RATE
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig

ENCODER = EncoderConfig(dim=32, layers=2, heads=4, kernel=5)
FAST = replace(ENCODER, subsampling=SubsamplingConfig("depthwise", 8, 16))
# sherpa-onnx says so many pieces on a frame at most.
PLAIN = TransducerConfig(hidden=16, joint=16, most=10)
WITH_DURATIONS = replace(PLAIN, most=5, durations=(0, 1, 2, 3, 4), layers=2)
CASES = {name: (name, ENCODER, PLAIN) for name in ATTENTIONS}
CASES |= {"softmax-8x": ("softmax", FAST, PLAIN), "softmax-8x-durations": ("softmax", FAST, WITH_DURATIONS)}
SECONDS = (1, 2, 3, 5, 8, 13)

Said = tuple[str, list[float]]  # a text, and the times of its pieces in seconds


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="*", help=f"random ones, of {', '.join(CASES)} (default: all)")
    parser.add_argument(
        "--model", type=Path, help="a checkpoint, exported folder or .nemo file in their place"
    )
    parser.add_argument("--audio", nargs="+", type=Path, help="recordings (default: noise of 1 to 13 s)")
    args = parser.parse_args()
    if unknown := set(args.models) - set(CASES):
        raise UserError(f"{' '.join(unknown)}: choose of {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        waveforms = [audio.load(path) for path in args.audio or make_recordings(folder, SECONDS)]
        print(f"sherpa-onnx {version('sherpa-onnx')}")
        print(f"{'':24}  its features  our features  letters", flush=True)
        for name in [args.model.name] if args.model else args.models or CASES:
            path = args.model or random_model(name, folder / "models" / name)
            print(f"{name:24}{compare(path, waveforms, folder / 'graphs' / name)}", flush=True)


def random_model(name: str, out: Path) -> Path:
    """Write an exported folder of a random model with NeMo's features."""
    attention, encoder, transducer = CASES[name]
    tokenizer = Tokenizer(train_benchmark_tokenizer())
    frontend = FrontendConfig(kind="nemo")
    config = ModelConfig(
        attention, encoder=encoder, frontend=frontend, head="transducer", transducer=transducer
    )
    torch.manual_seed(0)
    model = Model(config, tokenizer.pieces)
    with torch.no_grad():
        for value in model.transducer.parameters():
            value *= 4  # so that pieces change
        model.transducer.joint.project.bias[BLANK] += 4  # and blanks come
    out.parent.mkdir(exist_ok=True)
    write_folder(out, config, tokenizer, model.state_dict(), False, (0, 0.0), "")
    return out


def compare(path: Path, waveforms: list[Tensor], out: Path) -> str:
    """A row of the table."""
    model, recipe = load_model(path)
    if model.transducer is None:
        raise UserError(f"{path}: has no transducer")
    command = [sys.executable, "-m", "asr.checkpoints.onnx_export", str(path.resolve()), "--out", str(out)]
    out.parent.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{path}: not exported: {done.stderr.strip().splitlines()[-1]}")
    theirs = by_sherpa(out, waveforms)
    columns = ""
    for features in (sherpa_features, our_features):
        ours = [decode(model, recipe, features(model, waveform)) for waveform in waveforms]
        same = sum(said(recipe, a) == b for a, b in zip(ours, theirs, strict=True))
        columns += f"{f'{same} of {len(theirs)}':>14}"
    return f"{columns}  {sum(len(text) for text, _ in theirs):7}"


def by_sherpa(folder: Path, waveforms: list[Tensor]) -> list[Said]:
    """What sherpa-onnx says."""
    import sherpa_onnx  # not above, so that --help can be read without it

    graphs = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
        **graphs, tokens=str(folder / "tokens.txt"), model_type="nemo_transducer", num_threads=1
    )
    found = []
    for waveform in waveforms:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, waveform.numpy())
        recogniser.decode_stream(stream)
        times = [round(seconds, 2) for seconds in stream.result.timestamps]
        found.append((" ".join(stream.result.text.split()), times))
    return found


def our_features(model: Model, waveform: Tensor) -> Tensor:
    """(T, mels) as the model was trained with."""
    return model.frontend(waveform[None], torch.tensor([len(waveform)]))[0][0]


def sherpa_features(model: Model, waveform: Tensor) -> Tensor:
    """(T, mels) as sherpa-onnx 2.0.1 makes them for NeMo's transducers."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.remove_dc_offset = False
    options.mel_opts.num_bins = model.frontend.config.mels
    options.mel_opts.low_freq = 0
    options.mel_opts.high_freq = -400
    options.mel_opts.is_librosa = True
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(SAMPLE_RATE, waveform.tolist())
    bank.input_finished()
    x = np.stack([bank.get_frame(number) for number in range(bank.num_frames_ready)])
    return torch.from_numpy((x - x.mean(0)) / (x.std(0) + 1e-5))


@torch.inference_mode()
def decode(model: Model, recipe: Recipe, features: Tensor) -> Hypothesis:
    """Our greedy decoding of one utterance's features."""
    encoded, lengths = model.encoder(features[None], torch.tensor([len(features)]))
    return transducer_greedy(model.transducer, encoded, lengths)[0]


def said(recipe: Recipe, found: Hypothesis) -> Said:
    """The same, in words and seconds."""
    frame = recipe.model.framing.factor * HOP / SAMPLE_RATE
    return recipe.tokenizer.decode(found.classes), [round(number * frame, 2) for number in found.frames]


if __name__ == "__main__":
    run_program(main)

"""Imported models beside their originals: NVIDIA NeMo's and transformers' own code on equal random weights.

In an environment of its own (1 GB; it needs nothing else of this recipe):

    uv venv imports && uv pip install --python imports/bin/python 'nemo_toolkit[asr]==3.0.0' transformers \\
        torch==2.11.0 torchaudio==2.11.0
    imports/bin/python benchmarks/imports.py                # all; or names, as in the table
    imports/bin/python benchmarks/imports.py Parakeet-HF --seconds 1 20
    imports/bin/python benchmarks/imports.py --nemo FILE.nemo --audio a.wav b.wav   # a real one

Every model is built and saved by its own toolkit, with random biases and batch-norm statistics (their
defaults, 0 and 1, hide errors), imported by asr.checkpoints.foreign, and run on the same noise. Columns: the
largest difference of log-probabilities in nats, of each length alone and of all but the longest in one padded
batch, and how many of the texts of the toolkit's transcribe() (NeMo) or generate() (transformers) are ours.

Of transducers, and of hybrids by theirs: the largest difference of the joint network's logits, a TDT model's
durations included, along NeMo's own greedy path, of each length alone; texts alone, and in one batch.
"""

import contextlib
import copy
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import make_parser
from torch import Tensor, nn

from asr.checkpoints.checkpoint import Recipe, build_model
from asr.checkpoints.folder import read_folder
from asr.checkpoints.foreign.archive import read_archive
from asr.checkpoints.foreign.configuration import parse_config
from asr.checkpoints.foreign.importing import ImportOptions, import_model
from asr.data.tokenizer import train_tokenizer
from asr.decoding.greedy import greedy
from asr.decoding.label_looping import transducer_greedy
from asr.errors import UserError, run_program
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model

FAST = {
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "conv_kernel_size": 9,
}
PARAKEET = {**FAST, "use_bias": False, "xscaling": False}
TDT = {"durations": [0, 1, 2, 3, 4]}
SMALL = {"n_layers": 3, "d_model": 64, "subsampling_conv_channels": 32}


@dataclass(frozen=True)
class Case:
    """A model: options of its encoder beside those of Conformer-CTC S."""

    encoder: dict[str, Any] = field(default_factory=dict)
    mels: int = 80
    heads: str = "ctc"  # as our --head
    transducer: dict[str, Any] = field(default_factory=dict)  # prednet's, jointnet's options; durations
    huggingface: bool = False
    file: Path | None = None  # a .nemo file in place of a random model


CASES = {
    "Conformer-S": Case(),
    "Conformer-S-8x": Case({"subsampling_factor": 8}),
    "Conformer-S-tied": Case({"untie_biases": False, "xscaling": False}),
    "FastConformer-S": Case(FAST),
    "FastConformer-S-hybrid": Case(FAST, heads="hybrid-ctc"),
    "Parakeet-S": Case(PARAKEET, mels=128),
    "small-depthwise-4x": Case({**FAST, **SMALL, "subsampling_factor": 4}),
    "small-no-biases-4x": Case({**SMALL, "use_bias": False}),
    "small-kernel-5-128": Case({**SMALL, "conv_kernel_size": 5}, mels=128),
    "Conformer-Transducer-S": Case(heads="transducer", transducer={"pred_hidden": 320, "joint_hidden": 320}),
    "FastConformer-RNNT-S": Case(FAST, heads="transducer"),
    "FastConformer-S-hybrid-RNNT": Case(FAST, heads="hybrid"),
    "Parakeet-TDT-S": Case(PARAKEET, 128, "transducer", {**TDT, "pred_rnn_layers": 2}),
    "Parakeet-TDT_CTC-S": Case(PARAKEET, 80, "hybrid", TDT),
    "small-tanh-no-dropout": Case(SMALL, 80, "transducer", {"activation": "tanh", "dropout": 0.0}),
    "Parakeet-HF": Case({**FAST, **SMALL}, huggingface=True),
    "Parakeet-HF-no-biases": Case({**PARAKEET, **SMALL}, mels=128, huggingface=True),
}


@dataclass(frozen=True)
class Original:
    """Another toolkit's model.

    Args:
        save: writes it to a path.
        log_probs: of waveforms in one padded batch, (N, classes) each, the blank last.
        texts: of recordings at paths, so many at a time.
        path: what a transducer does with a waveform, greedily: frame and logits, the blank last among the
            classes, of each step. None of a CTC model.
    """

    save: Callable[[Path], Any]
    log_probs: Callable[[Sequence[Tensor]], list[Tensor]]
    texts: Callable[[Sequence[Path], int], list[str]]
    path: Callable[[Tensor], list[tuple[int, Tensor]]] | None = None


def randomise(model: nn.Module) -> None:
    """Random biases, norms and batch-norm statistics."""
    generator = torch.Generator().manual_seed(1)

    def noise(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator)

    for name, value in model.state_dict().items():
        if "featurizer" in name or not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith(("bias", "running_mean", "pos_bias_u", "pos_bias_v", "bias_u", "bias_v")):
            value.copy_(0.3 * noise(value))
        elif value.ndim == 1:
            value.copy_(1 + 0.2 * noise(value))
        elif "decoder_layers" in name or "ctc_head" in name:
            value.copy_(2 * noise(value) / math.sqrt(value.shape[1]))  # so that classes change
        elif "joint." in name:
            value.copy_(3 * noise(value) / math.sqrt(value.shape[1]))
        elif "dec_rnn" in name:
            value.copy_(2 * noise(value) / math.sqrt(value.shape[1]))


def nemo_original(case: Case, tokenizer: bytes, folder: Path) -> Original:
    """A model of NeMo's."""
    from nemo.collections.asr.models import EncDecCTCModelBPE, EncDecHybridRNNTCTCBPEModel, EncDecRNNTBPEModel
    from nemo.utils import logging as nemo_logging
    from omegaconf import OmegaConf, open_dict

    nemo_logging.setLevel(logging.ERROR)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    (folder / "vocab.txt").write_text("")
    dim = case.encoder.get("d_model", 176)
    decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": dim,
        "num_classes": -1,
        "vocabulary": [],
    }
    config = {
        "sample_rate": SAMPLE_RATE,
        "log_prediction": False,
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": case.mels,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": case.mels,
            "feat_out": -1,
            "n_layers": 16,
            "d_model": dim,
            "subsampling": "striding",
            "subsampling_factor": 4,
            "subsampling_conv_channels": -1,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "untie_biases": True,
            "conv_kernel_size": 31,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
            **case.encoder,
        },
        "decoder": decoder,
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    if case.heads != "ctc":
        options = {
            "pred_hidden": 64,
            "joint_hidden": 64,
            "pred_rnn_layers": 1,
            "activation": "relu",
            "dropout": 0.2,
        }
        options |= case.transducer
        durations = options.get("durations", [])
        config |= {
            "model_defaults": {"enc_hidden": dim}
            | {name: options[name] for name in ("pred_hidden", "joint_hidden")},
            "aux_ctc": {"ctc_loss_weight": 0.3, "decoder": copy.deepcopy(decoder)},
            "decoder": {
                "_target_": "nemo.collections.asr.modules.RNNTDecoder",
                "normalization_mode": None,
                "random_state_sampling": False,
                "blank_as_pad": True,
                "prednet": {name: options[name] for name in ("pred_hidden", "pred_rnn_layers", "dropout")},
            },
            "joint": {
                "_target_": "nemo.collections.asr.modules.RNNTJoint",
                "log_softmax": None,
                "preserve_memory": False,
                "fuse_loss_wer": False,
                "fused_batch_size": -1,
                "jointnet": {name: options[name] for name in ("joint_hidden", "activation", "dropout")},
                "num_extra_outputs": len(durations),
            },
            "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
            "loss": {"loss_name": "default"},
        }
        if durations:
            config["loss"] = {
                "loss_name": "tdt",
                "tdt_kwargs": {"durations": durations, "sigma": 0.05, "omega": 0.1},
            }
            config["decoding"] |= {"model_type": "tdt", "durations": durations}
    kinds = {"ctc": EncDecCTCModelBPE, "transducer": EncDecRNNTBPEModel}
    if case.heads == "transducer":
        del config["aux_ctc"]
    settings = OmegaConf.create(config)
    with open_dict(settings):
        model = kinds.get(case.heads, EncDecHybridRNNTCTCBPEModel)(cfg=settings)
    with open_dict(model.cfg):
        model.cfg.validation_ds = {"use_start_end_token": False}  # transcribe() asks for it
    randomise(model)
    if case.heads != "ctc":
        with torch.no_grad():
            model.decoder.prediction["embed"].weight[-1] = 0
            model.joint.joint_net[-1].bias[len(model.joint.vocabulary)] += 4  # blanks and pieces both come
    model.eval()
    return wrap_nemo(model, case.heads)


def greedy_path(model: nn.Module, waveform: Tensor) -> list[tuple[int, Tensor]]:
    """Frame and raw logits of each step of NeMo's greedy decoding, as its own modules compute them."""
    model.joint.log_softmax = False
    encoded, frames = model(input_signal=waveform[None], input_signal_length=torch.tensor([len(waveform)]))
    encoded, blank = encoded.transpose(1, 2), len(model.joint.vocabulary)
    durations = list(model.cfg.decoding.get("durations") or [])
    steps, frame, here, state, last = [], 0, 0, None, torch.tensor([[blank]])
    predicted, state = model.decoder.predict(last, None, add_sos=False, batch_size=1)
    while frame < int(frames):
        logits = model.joint.joint(encoded[:, frame : frame + 1], predicted)[0, 0, 0]
        steps.append((frame, logits.clone()))
        piece = int(logits[: blank + 1].argmax())
        jump = durations[int(logits[blank + 1 :].argmax())] if durations else int(piece == blank)
        if piece == blank:
            jump = max(1, jump)
        else:
            predicted, state = model.decoder.predict(
                torch.tensor([[piece]]), state, add_sos=False, batch_size=1
            )
            here += 1
            jump = max(jump, int(here == 10))
        frame, here = frame + jump, 0 if jump else here
    model.joint.log_softmax = None
    return steps


def wrap_nemo(model: nn.Module, heads: str) -> Original:
    """What is asked of a NeMo model in evaluation mode."""
    hybrid = heads == "hybrid-ctc"
    if hybrid:
        model.change_decoding_strategy(decoder_type="ctc", verbose=False)

    @torch.inference_mode()
    def log_probs(waveforms: Sequence[Tensor]) -> list[Tensor]:
        padded, lengths = _padded(waveforms)
        found, frames, *_ = model(input_signal=padded, input_signal_length=lengths)
        if hybrid:
            found = model.ctc_decoder(encoder_output=found)
        return [row[:n].clone() for row, n in zip(found, frames.tolist(), strict=True)]

    def texts(paths: Sequence[Path], together: int) -> list[str]:
        found = model.transcribe([str(path) for path in paths], batch_size=together, verbose=False)
        found = found[0] if isinstance(found, tuple) else found
        return [getattr(item, "text", item) for item in found]

    path = torch.inference_mode()(lambda waveform: greedy_path(model, waveform))
    says = None if heads in ("ctc", "hybrid-ctc") else path
    return Original(lambda path: model.save_to(str(path)), log_probs, texts, says)


def restored_original(case: Case, tokenizer: bytes, folder: Path) -> Original:
    """A model of NeMo's from its file."""
    from nemo.collections.asr.models import EncDecCTCModelBPE, EncDecHybridRNNTCTCBPEModel, EncDecRNNTBPEModel
    from omegaconf import open_dict

    heads = parse_config(read_archive(case.file).config, str(case.file)).model.head
    kinds = {
        "ctc": EncDecCTCModelBPE,
        "transducer": EncDecRNNTBPEModel,
        "hybrid": EncDecHybridRNNTCTCBPEModel,
    }
    kind = kinds[heads]
    model = kind.restore_from(str(case.file), map_location="cpu").eval()
    with open_dict(model.cfg):
        model.cfg.validation_ds = {"use_start_end_token": False}
    original = wrap_nemo(model, heads)
    return replace(original, save=lambda path: path.symlink_to(case.file.resolve()))


def huggingface_original(case: Case, tokenizer: bytes, folder: Path) -> Original:
    """A model of transformers', with NeMo's pieces as its converter would store them."""
    import json

    from sentencepiece import SentencePieceProcessor
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    e = case.encoder
    pieces = SentencePieceProcessor(model_proto=tokenizer)
    size = pieces.get_piece_size()
    encoder = {
        "hidden_size": e["d_model"],
        "num_hidden_layers": e["n_layers"],
        "num_attention_heads": 4,
        "intermediate_size": 4 * e["d_model"],
        "conv_kernel_size": e["conv_kernel_size"],
        "subsampling_conv_channels": e["subsampling_conv_channels"],
        "num_mel_bins": case.mels,
        "attention_bias": e.get("use_bias", True),
        "convolution_bias": e.get("use_bias", True),
        "scale_input": e.get("xscaling", True),
    }
    config = ParakeetCTCConfig(vocab_size=size + 1, pad_token_id=size, encoder_config=encoder)
    model = ParakeetForCTC(config)
    randomise(model)
    model.eval()
    extractor = ParakeetFeatureExtractor(feature_size=case.mels)
    names = [pieces.id_to_piece(number) for number in range(size)]

    def features(waveforms: Sequence[Tensor]):
        arrays = [waveform.numpy() for waveform in waveforms]
        return extractor(arrays, sampling_rate=SAMPLE_RATE, return_tensors="pt")

    def save(path: Path) -> None:
        model.save_pretrained(path)
        extractor.save_pretrained(path)
        added = [{"id": 0, "content": names[0]}, {"id": size, "content": "<pad>"}]
        vocabulary = {name: number for number, name in enumerate(names)}
        content = {"model": {"type": "BPE", "unk_token": names[0], "vocab": vocabulary, "merges": []}}
        (path / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": added}))

    @torch.inference_mode()
    def log_probs(waveforms: Sequence[Tensor]) -> list[Tensor]:
        inputs = features(waveforms)
        found = model(**inputs).logits.log_softmax(-1)
        # ceil(n / 2) for each of three strides
        frames = [-(-int(n) // 8) for n in inputs["attention_mask"].sum(-1)]
        return [row[:n] for row, n in zip(found, frames, strict=True)]

    @torch.inference_mode()
    def texts(paths: Sequence[Path], together: int) -> list[str]:
        found = []
        for path in paths:
            classes = model.generate(**features([_read(path)]))[0].tolist()
            kept = [b for a, b in zip([None, *classes], classes, strict=False) if b != a and b != size]
            found.append(" ".join(pieces.decode(kept).split()))
        return found

    return Original(save, log_probs, texts)


def compare(name: str, case: Case, recordings: Sequence[Path], tokenizer: bytes) -> tuple[str, str]:
    """What the last two columns are, and a row of the table."""
    waveforms = [_read(path) for path in recordings]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make = huggingface_original if case.huggingface else nemo_original
        make = restored_original if case.file else make
        original = make(case, tokenizer, folder)
        saved = folder / ("saved" if case.huggingface else "saved.nemo")
        original.save(saved)
        import_model(saved, folder / "ours", ImportOptions("new", case="keep"))
        model, recipe = build_model(read_folder(folder / "ours"), folder)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        if original.path:
            cells = transducer_cells(original, model, recipe, recordings)
            return "texts alone and in a batch", f"{name:28}{parameters:6.2f}{cells}"

        @torch.inference_mode()
        def ours(waveforms: Sequence[Tensor]) -> list[Tensor]:
            found, frames = model(*_padded(waveforms))
            found = torch.cat((found[..., 1:], found[..., :1]), -1)
            return [row[:n] for row, n in zip(found, frames.tolist(), strict=True)]

        alone = [ours([waveform])[0] for waveform in waveforms]
        cells = [
            _distance([found], original.log_probs([waveform]))
            for found, waveform in zip(alone, waveforms, strict=True)
        ]
        batch = waveforms[:-1] or waveforms
        cells.append(_distance(ours(batch), original.log_probs(batch)))
        texts = []
        for found in alone:
            classes = greedy(torch.cat((found[:, -1:], found[:, :-1]), -1)[None], torch.tensor([len(found)]))[
                0
            ]
            texts.append(recipe.tokenizer.decode(classes))
        theirs = [" ".join(text.split()) for text in original.texts(recordings, 1)]
        same = sum(a == b for a, b in zip(texts, theirs, strict=True))
    numbers = "".join(f"{cell:9.1e}" for cell in cells)
    letters = sum(map(len, theirs))
    return (
        " batch   texts",
        f"{name:28}{parameters:6.2f}{numbers}   {same} of {len(theirs)} ({letters} letters)",
    )


@torch.inference_mode()
def transducer_cells(original: Original, model: Model, recipe: Recipe, recordings: Sequence[Path]) -> str:
    """A row of the table, of a transducer: logits along the path of each, texts alone and in a batch."""
    waveforms = [_read(path) for path in recordings]
    joint, prediction, pieces = model.transducer.joint, model.transducer.prediction, recipe.tokenizer.pieces
    order = [*range(1, pieces + 1), 0, *range(pieces + 1, joint.project.out_features)]
    cells, alone = "", []
    for waveform in waveforms:
        x, frames = model.encode(*_padded([waveform]))
        alone.append(transducer_greedy(model.transducer, x, frames)[0].classes)
        predicted, state = prediction.step(torch.zeros(1, 1, dtype=torch.long))
        largest = 0.0
        for frame, theirs in original.path(waveform):
            ours = joint(joint.encoder(x[0, frame]), joint.prediction(predicted[0, 0]))[order]
            largest = max(largest, float((ours - theirs).abs().max()))
            piece = int(theirs[: pieces + 1].argmax())
            if piece != pieces:
                predicted, state = prediction.step(torch.tensor([[piece + 1]]), state)
        cells += f"{largest:9.1e}"
    together = [
        one.classes for one in transducer_greedy(model.transducer, *model.encode(*_padded(waveforms)))
    ]
    for count, found in ((1, alone), (len(waveforms), together)):
        texts = [recipe.tokenizer.decode(classes) for classes in found]
        theirs = [" ".join(text.split()) for text in original.texts(recordings, count)]
        same = sum(a == b for a, b in zip(texts, theirs, strict=True))
        cells += f"   {same} of {len(theirs)}"
    return f"{cells} ({sum(map(len, theirs))} letters)"


def train_benchmark_tokenizer() -> bytes:
    """A SentencePiece model of 64 pieces, for random models."""
    text = [
        "the quick brown fox jumps over the lazy dog and runs away from all the hounds of the village"
    ] * 9
    text += [
        f"{a} {b} there was a {c}" for a in ("once", "twice") for b in ("upon", "a") for c in ("time", "day")
    ]
    return train_tokenizer(text, 64)


def make_recordings(folder: Path, seconds: Sequence[float]) -> list[Path]:
    """Noise whose loudness and colour change, as speech's do, in 16-bit files."""
    paths = []
    for number, length in enumerate(sorted(seconds)):
        generator = np.random.default_rng(number)
        samples = int(length * SAMPLE_RATE)
        noise = generator.normal(size=samples + 1)
        knots = np.linspace(0, samples, max(2, int(6 * length)))
        loudness = np.interp(np.arange(samples), knots, generator.uniform(0.001, 0.2, len(knots)))
        colour = np.interp(np.arange(samples), knots, generator.uniform(-0.9, 0.9, len(knots)))
        path = folder / f"{length:g}s.wav"
        soundfile.write(path, loudness * (noise[1:] + colour * noise[:-1]), SAMPLE_RATE, subtype="PCM_16")
        paths.append(path)
    return paths


def _read(path: Path) -> Tensor:
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def _seconds(path: Path) -> float:
    return soundfile.info(path).duration


def _padded(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


def _distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference; infinite where lengths differ."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return math.inf
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument(
        "--seconds", nargs="+", type=float, default=[1, 20, 150], help="lengths (%(default)s)"
    )
    parser.add_argument("--nemo", type=Path, help="a .nemo file to compare in place of random models")
    parser.add_argument("--audio", nargs="+", type=Path, help="with --nemo: 16 kHz recordings, not noise")
    args = parser.parse_args()
    if args.nemo:
        CASES[args.nemo.stem] = Case(file=args.nemo)
        args.models = [args.nemo.stem]
    if unknown := set(args.models) - set(CASES):
        raise UserError(f"{' '.join(unknown)}: choose of {', '.join(CASES)}")
    torch.manual_seed(0)
    tokenizer = train_benchmark_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        recordings = sorted(args.audio or make_recordings(Path(folder), args.seconds), key=_seconds)
        lengths = "".join(f"{_seconds(path):7.4g} s" for path in recordings)
        before = None
        for name in args.models or CASES:
            started = time.process_time()
            with contextlib.redirect_stdout(None):
                columns, row = compare(name, CASES[name], recordings, tokenizer)
            if columns != before:
                print(f"{'':28}{'M':>6}{lengths}   {columns}", flush=True)
            before = columns
            print(f"{row}  {time.process_time() - started:.0f} CPU s", flush=True)


if __name__ == "__main__":
    run_program(main)

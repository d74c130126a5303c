"""Decode splits and report WER, or transcribe recordings.

    python decode.py --checkpoint exp/demo/mala/checkpoints/best.ckpt --data data/demo --splits test \\
        --lm data/demo/3gram.bin --out exp/demo/mala/results
    python decode.py --checkpoint best.ckpt --audio a.flac talks/ list.txt [--lm 3gram.bin]
    python decode.py --checkpoint best.ckpt --audio film.flac --format srt > film.srt
    python decode.py --checkpoint best.ckpt --audio talks/ --format json --out transcripts
    arecord -t raw -f S16_LE -r 16000 -c 1 | python decode.py --checkpoint best.ckpt --stream -

With --lm, LM weight, word score and unknown penalty (and, with a transducer, the weight of its internal LM,
which is subtracted) are tuned on a dev split first, unless they are given. They are never tuned on a split
named test*. Where references or the LM's words are in one case or without punctuation and the model writes
otherwise, its words are scored and looked up as they are written (--case keep: as the model writes them).
With --audio there is nothing to tune on: take the ones in wer.json. Words that the LM does not have can be
recognised; a higher unknown penalty makes them rarer. A hybrid decodes with its transducer, but with --lm
with its CTC head, whose search is much faster; --head transducer searches with the other.

--audio takes recordings of any length, sample rate and number of channels (flac wav opus mp3 ...), folders,
lists (a path a line in .txt and .lst files, an id and a path in .scp files, from the list's folder or
else from the current one), and manifests of this recipe, lhotse, NeMo (.jsonl, .jsonl.gz) or Kaldi (a folder
with wav.scp). One that cannot be read is reported, the others are transcribed, and the exit
status is 1. --out DIR writes DIR/NAME.txt (json, srt, vtt) for NAME.flac, or DIR/ID.txt where there is an id;
below a folder that was named, its inner folders are kept. --channel each transcribes the two sides of a
telephone call apart, to DIR/NAME.0.txt and DIR/NAME.1.txt.

--stream writes words while they are spoken, for as long as anyone speaks, at constant memory: a word is
final once the next begins; on a terminal the last one changes in place, and --format json gives a line a
change. - is standard input: raw 16-bit samples at 16 kHz, one channel, or WAV of these. A pause ends an
utterance: a line of its own, or in JSON its text ("final") with start and end. It wants a model trained with
--frontend.normalise running and --training.chunks. With --lm, beam search goes on from chunk to chunk; give
its weights, or none will be tuned.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from asr.attention.linear import CentredAttention
from asr.checkpoints.checkpoint import Recipe, check_tokenizer
from asr.data import audio
from asr.data.manifest import Utterance, find_manifest, read_manifest
from asr.data.pcm import read_pcm
from asr.data.recordings import EACH, MIX
from asr.data.style import Style, style_of
from asr.data.tokenizer import Tokenizer
from asr.decoding import BEAM, EXPANSIONS, MOST_BEAM, MOST_EXPANSIONS, TRANSDUCER_BEAM
from asr.decoding.heads import choose_head
from asr.decoding.live import PAUSE, BeamWords, Session, paced, show
from asr.decoding.posteriors import (
    Encoded,
    Posteriors,
    compute_encoded,
    compute_posteriors,
    pool_splits,
    spread,
)
from asr.decoding.transcription import FORMATS, Output, run
from asr.decoding.tuning import UNTUNED, Surface, at_bounds, check_dev, format_surface, tune
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError, run_program
from asr.model.config import ModelConfig
from asr.model.device import add_device_options, autocast, describe
from asr.model.recogniser import Model
from asr.model.streaming import CHUNK_SECONDS, refuse_to_stream
from asr.processes import cpu_count
from asr.transcriber import LanguageModel, Transcriber, load

if TYPE_CHECKING:
    from asr.decoding.beam import BeamPool
    from asr.decoding.transducer_beam import TransducerSearch

LONGEST_CHUNK_MS = 60_000
LONGEST_PAUSE = 60
SHORTEST_HALF_LIFE = 0.1


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, and decode splits, transcribe recordings, or stream."""
    args = parse_arguments(argv)
    for split in args.tune_on:
        check_dev(split)
    transcriber = load(
        args.checkpoint,
        args.kernels,
        device=args.device,
        precision=args.precision,
        batch_seconds=args.batch_seconds,
        segment_seconds=args.segment_seconds,
    )
    model, recipe = transcriber.model, transcriber.recipe
    if args.attention and args.attention != recipe.model.attention:
        raise UserError(
            f"--attention {args.attention}: {args.checkpoint} was trained with {recipe.model.attention}"
        )
    if args.tokenizer:
        check_tokenizer(args.checkpoint, recipe, Tokenizer.load(args.tokenizer))
    args.head = transcriber.head = _head(args, recipe.model)
    if args.forget:
        let_forget(model, args.forget)
    try:
        if args.audio:
            return transcribe(args, transcriber)
        with autocast(transcriber.device, transcriber.dtype):
            if args.stream:
                return stream(args, model, recipe)
            evaluate(args, transcriber)
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch-seconds {args.batch_seconds:g}: too little GPU memory; lower it, or decode on the CPU "
            "(--device cpu)"
        ) from None
    return 0


def let_forget(model: Model, seconds: float) -> None:
    """Give the linear-time layers a half-life; raises UserError where there are none that forget."""
    layers = [block.attention for block in model.encoder.blocks]
    able = [layer for layer in layers if isinstance(layer, CentredAttention)]
    if not able:
        names = ", ".join(model.encoder.mechanisms)
        raise UserError(f"--forget {seconds:g}: this model's attention ({names}) does not forget")
    for layer in able:
        layer.forget(seconds / model.framing.seconds)


def _head(args: argparse.Namespace, config: ModelConfig) -> str:
    """The head to decode with; raises UserError where it is not there, or cannot do what is asked for."""
    ctc_only = {name: getattr(args, name) for name in ("stream", "segment_seconds", "chunk_ms")}
    ilm_weight = args.weights.ilm_weight if args.weights else 0.0
    weights = {"ilm_weight": ilm_weight, "ctc_weight": args.ctc_weight}
    return choose_head(config, args.head or "", bool(args.lm), ctc_only, weights, _option)


def _option(name: str) -> str:
    """As it is written on the command line."""
    return "--" + name.replace("_", "-")


def evaluate(args: argparse.Namespace, transcriber: Transcriber) -> None:
    """Decode splits, print the table, write the results."""
    model, recipe = transcriber.model, transcriber.recipe
    # Not above: transcribing need not wait for them, nor for matplotlib.
    from asr.decoding.evaluation import (
        count_unknown,
        decode_beam,
        decode_greedy,
        decode_transducer,
        format_table,
        write_results,
    )
    from asr.lm.files import vocabulary
    from asr.scoring.report.write import report_on

    chunk = 0
    if args.chunk_ms:
        refuse_to_stream(model)
        chunk = model.framing.frames_in(args.chunk_ms / 1000)
    tuned_on = _dev_splits(args) if args.lm and not args.weights else []
    manifests = _read_manifests(args, tuned_on)
    styles = _styles(args, recipe.tokenizer, manifests)
    weights, surface = args.weights, {}
    started, rows, tuning = time.monotonic(), [], 0.0
    # The pool first: an LM that cannot be used should say so before the acoustic model runs.
    with transcriber:
        pool = _beam_pool(args, transcriber) if args.lm else None
        compute = partial(compute_posteriors, chunk=chunk) if args.head == "ctc" else compute_encoded
        outputs = {
            split: compute(
                model, utterances, recipe.tokenizer, args.batch_seconds, f"{split}, acoustic model"
            )
            for split, utterances in manifests.items()
        }
        if tuned_on:
            most = args.tune_utterances
            pooled = pool_splits([outputs[split] for split in tuned_on], most)
            written = spread([styles[split] for split in tuned_on for _ in manifests[split]], most)
            begun = time.monotonic()
            names = " + ".join(tuned_on)
            weights, surface = _tune(
                pool, pooled, recipe.tokenizer, written, names, args.head == "transducer"
            )
            tuning = time.monotonic() - begun
        for split in args.splits:
            found, style = outputs[split], styles[split]
            if args.head == "ctc":
                rows.append(decode_greedy(split, found, recipe.tokenizer, style))
            else:
                rows.append(decode_transducer(split, found, recipe.tokenizer, model.transducer, style))
            if args.lm:
                rows.append(decode_beam(split, found, recipe.tokenizer, pool, args.lm.stem, weights, style))
    seconds = {
        "tuning": tuning,
        "acoustic model": sum(found.seconds for found in outputs.values()),
        "search": sum(row.seconds for row in rows),
        "in all": time.monotonic() - started,
    }
    hours = sum(found.audio_seconds for found in outputs.values()) / 3600
    print(format_table(rows))
    print(f"{hours:.2f} h of audio; " + ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))

    unknown = {}
    if args.lm:
        style = pool.style if args.case == "fold" else None
        words = vocabulary(args.lm)
        for split in args.splits:
            count, of = count_unknown(outputs[split].references, words, style)
            unknown[split] = {"oov": count, "words": of}
            rate = 100 * count / of
            print(f"{split}: {args.lm.stem} lacks {count} of the references' {of} words (OOV {rate:.2f} %)")

    about = {
        "checkpoint": str(args.checkpoint),
        "attention": recipe.model.attention,
        "head": args.head,
        "parameters": sum(p.numel() for p in model.parameters()),
        "computed": describe(model),
        "command": " ".join(["python", *sys.argv]),
    }
    if written := {split: str(styles[split]) for split in args.splits if styles[split] != Style()}:
        about["scored"] = written
    about |= {name: value for name in ("chunk_ms", "forget") if (value := getattr(args, name))}
    if args.lm:
        about |= {**weights._asdict(), "tuned_on": tuned_on, "unknown": unknown}
        if args.tune_utterances:
            about["tune_utterances"] = args.tune_utterances
        if args.head == "transducer":
            about |= {"expansions": args.expansions, "ctc_weight": args.ctc_weight}
        else:
            del about["ilm_weight"]
    if surface:
        about["tuning"] = [[*point, wer] for point, wer in sorted(surface.items())]
    about["seconds"] = {name: round(taken, 2) for name, taken in seconds.items()}
    write_results(args.out, rows, outputs, about)
    print(f"written to {args.out / 'wer.json'}")
    print(f"error report in {report_on(args.out)}")


def transcribe(args: argparse.Namespace, transcriber: Transcriber) -> int:
    """Transcribe recordings, folders, lists and manifests; 1 if one of them could not be."""
    output = Output(args.format, args.timestamps, args.out)
    lm = _language_model(args) if args.lm else None
    with transcriber:
        if lm:
            _weights(args)
            _beam_pool(args, transcriber)  # says how words are looked up, before anything is transcribed
        return run(args.audio, output, lambda items: transcriber.transcribe_each(items, lm), args.channel)


def stream(args: argparse.Namespace, model: Model, recipe: Recipe) -> int:
    """Write the words of a file or of standard input while they are spoken."""
    words = None
    if args.lm:
        from asr.decoding.beam import BeamDecoder

        decoder = BeamDecoder(args.lm, recipe.tokenizer, args.beam or BEAM, fold=args.case == "fold")
        weights = _weights(args)
        words = BeamWords(recipe.tokenizer, model.framing.seconds, decoder, weights)
    seconds = args.chunk_ms / 1000 if args.chunk_ms else CHUNK_SECONDS
    session = Session(model, recipe.tokenizer, seconds, words, args.pause)
    if str(args.stream) == "-":
        blocks = read_pcm(sys.stdin.fileno(), "--stream -")
    else:
        blocks = audio.stream(args.stream)
        blocks = paced(blocks) if args.real_time else blocks
    show(session, blocks, args.format, sys.stdout)
    return 0


def _language_model(args: argparse.Namespace) -> LanguageModel:
    return LanguageModel(
        args.lm,
        args.weights or UNTUNED,
        args.beam or 0,
        args.jobs,
        args.case == "fold",
        args.expansions,
        args.ctc_weight,
    )


def _weights(args: argparse.Namespace) -> Weights:
    """Those that are given, or else untuned ones, and a word of it."""
    if not args.weights:
        print(f"{UNTUNED}, not tuned", file=sys.stderr)
    return args.weights or UNTUNED


def _beam_pool(args: argparse.Namespace, transcriber: Transcriber) -> "BeamPool | TransducerSearch":
    pool, recipe = transcriber.pool(_language_model(args)), transcriber.recipe
    if pool.style:
        also = recipe.tokenizer.beyond(pool.style)
        line = f"{args.lm.name} is {pool.style}; the model also writes {also!r}: its words are "
        line += "looked up so" if args.case == "fold" else "not looked up so (--case keep)"
        print(line, file=sys.stderr)
    return pool


def _styles(
    args: argparse.Namespace, tokenizer: Tokenizer, manifests: dict[str, list[Utterance]]
) -> dict[str, Style]:
    """What each split's hypotheses are brought to, which leaves most models' as they are."""
    styles = {}
    for split, utterances in manifests.items():
        style = style_of(word for utterance in utterances for word in utterance.text.split())
        if also := tokenizer.beyond(style):
            line = f"{split}.jsonl is {style}; the model also writes {also!r}: its words are "
            line += "scored so" if args.case == "fold" else "not scored so (--case keep)"
            print(line, file=sys.stderr)
        styles[split] = style if also and args.case == "fold" else Style()
    return styles


def _read_manifests(args: argparse.Namespace, tuned_on: list[str]) -> dict[str, list[Utterance]]:
    """The utterances of all splits, with those to tune on; UserError where they are not fit for that."""
    manifests = {
        split: read_manifest(find_manifest(args.data, split))
        for split in dict.fromkeys(args.splits + tuned_on)
    }
    for split, utterances in manifests.items():
        if not any(utterance.text.strip() for utterance in utterances):
            raise UserError(f"{split}.jsonl: no utterance has a word to score against")
    ids = {utterance.id for split in tuned_on for utterance in manifests[split]}
    for split in args.splits:
        if split not in tuned_on and any(utterance.id in ids for utterance in manifests[split]):
            raise UserError(
                f"{split} shares utterances with {' + '.join(tuned_on)}, on which the LM weight would be "
                "tuned; name another dev split with --tune-on"
            )
    return manifests


def _tune(
    pool: "BeamPool | TransducerSearch",
    encoded: Posteriors | Encoded,
    tokenizer: Tokenizer,
    styles: list[Style],
    split: str,
    internal: bool,
) -> tuple[Weights, Surface]:
    from asr.scoring.errors import word_error_rate  # with jiwer

    def wer(weights: Weights) -> float:
        found = pool.decode(encoded.outputs, weights)
        texts = map(tokenizer.decode, found)
        hypotheses = [style.apply(text) for style, text in zip(styles, texts, strict=True)]
        return word_error_rate(encoded.references, hypotheses)

    best, tried = tune(wer, internal)
    greedy = "" if best != GREEDY else "; the LM does not help: these are greedy's words"
    print(f"tuned on {split}: {best} (WER {tried[best]:.2f} % there, greedy {tried[GREEDY]:.2f} %){greedy}")
    if bounds := at_bounds(best):
        print(f"tuning ended at its bounds ({', '.join(bounds)}): beyond them WER may be lower")
    print(format_surface(tried))
    return best, tried


def _dev_splits(args: argparse.Namespace) -> list[str]:
    """The splits to tune on: those named, or else all dev* in --data."""
    found = args.tune_on or sorted(path.stem for path in args.data.glob("dev*.jsonl") if "." not in path.stem)
    if not found:
        raise UserError(
            f"--data {args.data}: no dev*.jsonl to tune the LM weight on; name a split with --tune-on, "
            "or give --lm-weight, --word-score and --unknown-penalty"
        )
    return found


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; raises UserError where options do not go together."""
    parser = argparse.ArgumentParser(
        prog="decode.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        help="a checkpoint of train.py, an exported folder, FILE.nemo, or hf:OWNER/NAME (Hugging Face)",
    )
    add("--data", type=Path, help="folder with manifests, SPLIT.jsonl each")
    add("--splits", nargs="+", default=[], help="splits to decode, such as test-clean test-other")
    add(
        "--audio",
        nargs="+",
        type=Path,
        help="transcribe these instead: recordings, folders, lists, manifests",
    )
    add(
        "--channel",
        default=MIX,
        help="of --audio: 0, 1, ...: that channel; mix: their mean; each (%(default)s)",
    )
    add("--stream", type=Path, help="write the words of this file, or of standard input (-), as they come")
    add(
        "--chunk-ms",
        type=float,
        help="a chunk's length: of --stream (default 640); with --data, decode chunk by chunk, as a stream "
        "does (default: with all of each recording in sight)",
    )
    add(
        "--pause",
        type=float,
        default=PAUSE,
        help="of --stream: seconds without a word that end an utterance; 0: nothing does (%(default)g)",
    )
    add(
        "--forget",
        type=float,
        help="seconds away from which a frame counts half to linear-time attention, whatever the model was "
        "trained with; 5 suits long recordings of many speakers that are decoded in one pass",
    )
    add("--real-time", action="store_true", help="of --stream FILE: at the speed of speech")
    add(
        "--format", choices=FORMATS, default="txt", help="of transcripts (%(default)s); json has words' times"
    )
    add("--timestamps", action="store_true", help="start, end and confidence of every word in txt")
    add("--lm", type=Path, help="n-gram LM for words: KenLM binary or ARPA")
    add("--lm-weight", type=float, help="factor on the LM's log-probability; not tuned then")
    add("--word-score", type=float, help="reward for every word in nats; goes with --lm-weight")
    add(
        "--unknown-penalty",
        type=float,
        help="taken, in nats, from every word that the LM does not have, which has the LM's score of <unk>; "
        "goes with --lm-weight; 50 leaves the LM's words only",
    )
    add(
        "--case",
        choices=("fold", "keep"),
        default="fold",
        help="fold: where references, or the LM's words, are in one case or without punctuation and the "
        "model writes otherwise, its words are scored, or looked up, as they are written; keep: as the model "
        "writes them (%(default)s); transcripts are as the model writes them",
    )
    add("--tune-on", nargs="+", default=[], help="dev splits to tune on (default: all dev* in --data)")
    add(
        "--ilm-weight",
        type=float,
        help="with a transducer: factor on its internal LM's log-probability, which is subtracted; tuned "
        "with the other weights, and 0 where these are given and it is not",
    )
    add(
        "--ctc-weight",
        type=float,
        default=0.0,
        help="of a hybrid whose transducer decodes with --lm: factor on CTC's log-probability of each "
        "hypothesis in the last beam, which is added; not tuned (%(default)g)",
    )
    add(
        "--beam",
        type=int,
        help=f"hypotheses kept in beam search ({BEAM}; with a transducer {TRANSDUCER_BEAM})",
    )
    add(
        "--expansions",
        type=int,
        default=EXPANSIONS,
        help="pieces on one frame at most in a transducer's beam search (%(default)s)",
    )
    add(
        "--tune-utterances",
        type=int,
        default=0,
        help="tune on so many utterances of the dev splits, evenly spread: a transducer's search is slow "
        "(default: all)",
    )
    add("--out", type=Path, help="folder for wer.json and the hypotheses, or for transcripts")
    add(
        "--head",
        choices=("ctc", "transducer"),
        help="of a model that has both, the one to decode with (default: transducer, but ctc with --lm and "
        "options that only ctc has)",
    )
    add("--attention", default="", help="refuse a checkpoint trained with another mechanism or list of them")
    add("--tokenizer", type=Path, help="refuse a checkpoint trained with another tokenizer")
    add("--batch-seconds", type=float, default=120.0, help="audio in a batch (%(default)s)")
    add(
        "--segment-seconds",
        type=float,
        default=0.0,
        help="cut longer recordings of --audio where they are quiet, to segments of at most so much that are "
        "encoded apart; 20 suits models trained on short utterances (default 0: in one pass)",
    )
    add("--jobs", type=int, default=cpu_count(), help="processes for beam search (%(default)s)")
    add_device_options(parser)
    args = parser.parse_args(argv)
    if args.stream:
        _check_stream(args)
    elif bool(args.audio) == bool(args.data):
        raise UserError("give either --data with --splits, or --audio, or --stream")
    if args.forget is not None and not SHORTEST_HALF_LIFE <= args.forget <= 400:
        raise UserError(f"--forget {args.forget:g}: must lie between {SHORTEST_HALF_LIFE} and 400 seconds")
    if args.chunk_ms is not None:
        if args.audio:
            raise UserError("--chunk-ms wants --stream or --data")
        if not 0 < args.chunk_ms <= LONGEST_CHUNK_MS:
            raise UserError(f"--chunk-ms {args.chunk_ms:g}: must be positive, and {LONGEST_CHUNK_MS} at most")
    if not args.stream and (args.real_time or args.pause != PAUSE):
        raise UserError("--real-time and --pause want --stream")
    if args.data and (args.timestamps or args.format != "txt"):
        raise UserError("--timestamps and --format want --audio")
    if args.channel not in (MIX, EACH) and not (args.channel.isdecimal() and int(args.channel) < 1000):
        raise UserError(f"--channel {args.channel}: wants the number of a channel, from 0, or mix, or each")
    if args.channel != MIX and not args.audio:
        raise UserError("--channel wants --audio")
    if args.segment_seconds and not args.audio:
        raise UserError("--segment-seconds wants --audio")
    if args.segment_seconds and not 1 <= args.segment_seconds <= 3600:
        raise UserError(f"--segment-seconds {args.segment_seconds:g}: must lie between 1 and 3600, or be 0")
    if args.audio and (args.splits or args.tune_on):
        raise UserError("--splits and --tune-on want --data")
    if args.data and not (args.splits and args.out):
        raise UserError("--data wants --splits and --out")
    for option, splits in (("--splits", args.splits), ("--tune-on", args.tune_on)):
        for split in splits:
            if "/" in split:  # ./test would pass for no test set
                raise UserError(f"{option} {split}: wants names of splits in --data, and no paths")
    if args.lm_weight is not None and not args.lm:
        raise UserError("--lm-weight wants --lm")
    if args.lm and args.lm.stem == "none":
        raise UserError(f"--lm {args.lm}: rename it; results without an LM are called 'none'")
    if args.out:
        there = next(path for path in (args.out, *args.out.absolute().parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise UserError(f"--out {args.out}: no folder that may be written to")
    for option, most in (
        ("lm_weight", 20.0),
        ("word_score", 50.0),
        ("unknown_penalty", 50.0),
        ("ilm_weight", 20.0),
        ("ctc_weight", 20.0),
    ):
        value = getattr(args, option)
        if value is not None and not -most <= value <= most:
            raise UserError(f"{_option(option)} {value:g}: must lie between {-most:g} and {most:g}")
    if args.tune_on and not args.lm:
        raise UserError("--tune-on wants --lm")
    if args.ctc_weight and not args.lm:
        raise UserError("--ctc-weight wants --lm: greedy decoding has one hypothesis")
    weights = [args.lm_weight, args.word_score, args.unknown_penalty]
    if any(value is None for value in weights) and any(value is not None for value in weights):
        raise UserError("--lm-weight, --word-score and --unknown-penalty go together")
    if args.ilm_weight is not None and weights[0] is None:
        raise UserError(
            "--ilm-weight wants --lm-weight, --word-score and --unknown-penalty; else it is tuned"
        )
    args.weights = None if weights[0] is None else Weights(*weights, args.ilm_weight or 0.0)
    if args.tune_utterances < 0:
        raise UserError(f"--tune-utterances {args.tune_utterances}: must be positive, or 0 for all")
    if args.tune_utterances and (args.weights or not args.lm):
        raise UserError("--tune-utterances: nothing is tuned without --lm, nor where --lm-weight is given")
    if args.tune_on and args.weights:
        raise UserError("--tune-on: nothing is tuned where --lm-weight is given")
    if args.beam is not None and not 1 <= args.beam <= MOST_BEAM:
        raise UserError(f"--beam {args.beam}: must lie between 1 and {MOST_BEAM}")
    if not 1 <= args.expansions <= MOST_EXPANSIONS:
        raise UserError(f"--expansions {args.expansions}: must lie between 1 and {MOST_EXPANSIONS}")
    if args.jobs < 1 or not args.batch_seconds > 0:
        raise UserError("--jobs and --batch-seconds must be positive")
    return args


def _check_stream(args: argparse.Namespace) -> None:
    """Raise UserError for what does not go with --stream."""
    others = {"--data": args.data, "--audio": args.audio, "--splits": args.splits, "--out": args.out}
    for option, value in {**others, "--timestamps": args.timestamps}.items():
        if value:
            raise UserError(f"{option}: does not go with --stream; --format json gives the words' times")
    if args.format not in ("txt", "json"):
        raise UserError(f"--format {args.format}: --stream writes txt or json; for captions take --audio")
    if not 0 <= args.pause <= LONGEST_PAUSE:
        raise UserError(f"--pause {args.pause:g}: must lie between 0 and {LONGEST_PAUSE} seconds")
    if args.real_time and str(args.stream) == "-":
        raise UserError("--real-time: standard input comes at its own speed; it wants --stream FILE")


if __name__ == "__main__":
    run_program(main)

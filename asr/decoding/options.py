"""The command line of decode.py: its options, by what they are about, and which go together."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from asr.data import EACH, MIX
from asr.decoding import BEAM, EXPANSIONS, FORMATS, MOST_BEAM, MOST_EXPANSIONS, PAUSE, TRANSDUCER_BEAM
from asr.decoding.hotwords import BOOST, MOST_BOOST, read_hotwords
from asr.decoding.nbest import MOST
from asr.decoding.weights import Weights
from asr.device_options import add_device_options
from asr.errors import UserError
from asr.processes import cpu_count
from asr.scoring.normalise import NORMALISERS

LONGEST_CHUNK_MS = 60_000
LONGEST_PAUSE = 60
SHORTEST_HALF_LIFE, LONGEST_HALF_LIFE = 0.1, 400
MOST_WEIGHT = {  # either way
    "lm_weight": 20.0,
    "word_score": 50.0,
    "unknown_penalty": 50.0,
    "ilm_weight": 20.0,
    "ctc_weight": 20.0,
}


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """The command line; ``weights`` are those that are given, or None; ``hotwords`` are read.

    ``searches`` is whether there is more to do than greedy decoding.

    Raises:
        UserError: a value is out of bounds, or options do not go together.
    """
    parser = argparse.ArgumentParser(
        prog="decode.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for title, add_options in GROUPS.items():
        add_options(parser.add_argument_group(title))
    args = parser.parse_args(argv)
    args.searches = bool(args.lm or args.words or args.n_best)
    for check in CHECKS:
        check(args)
    args.weights = _weights(args)
    _check_tuning(args)
    args.hotwords = read_hotwords(args.words, args.words_boost) if args.words else ()
    return args


def spell(name: str) -> str:
    """An option as it is written on the command line."""
    return "--" + name.replace("_", "-")


# ---- Options


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        help="a checkpoint of train.py, an exported folder, FILE.nemo, or hf:OWNER/NAME (Hugging Face)",
    )
    add(
        "--head",
        choices=("ctc", "transducer"),
        help="of a model that has both, the one to decode with (default: transducer, but ctc with --lm, "
        "--words, --n-best and options that only ctc has)",
    )
    add("--attention", default="", help="refuse a checkpoint trained with another mechanism or list of them")
    add("--tokenizer", type=Path, help="refuse a checkpoint trained with another tokenizer")
    add(
        "--forget",
        type=float,
        help="seconds away from which a frame counts half to linear-time attention, whatever the model was "
        "trained with; 5 suits long recordings of many speakers that are decoded in one pass",
    )


def _add_splits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", type=Path, help="folder with manifests, SPLIT.jsonl each")
    add("--splits", nargs="+", default=[], help="splits to decode, such as test-clean test-other")
    add(
        "--case",
        choices=("fold", "keep"),
        default="fold",
        help="fold: where references, or the LM's words, are in one case or without punctuation and the "
        "model writes otherwise, its words are scored, or looked up, as they are written; keep: as the model "
        "writes them (%(default)s); transcripts are as the model writes them",
    )
    add(
        "--normalise",
        choices=tuple(NORMALISERS),
        help="bring references and hypotheses to one form before they are scored, by Whisper's normaliser; "
        + "; ".join(f"{name}: {meaning}" for name, meaning in NORMALISERS.items())
        + " (default: only as --case says); wer.json states it",
    )


def _add_recordings(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
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
    add(
        "--segment-seconds",
        type=float,
        default=0.0,
        help="cut longer recordings of --audio where they are quiet, to segments of at most so much that are "
        "encoded apart; 20 suits models trained on short utterances (default 0: in one pass)",
    )
    add(
        "--format", choices=FORMATS, default="txt", help="of transcripts (%(default)s); json has words' times"
    )
    add("--timestamps", action="store_true", help="start, end and confidence of every word in txt")


def _add_stream(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
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
    add("--real-time", action="store_true", help="of --stream FILE: at the speed of speech")


def _add_search(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
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
        "--words",
        type=Path,
        metavar="FILE",
        help="words or phrases to expect, one a line, such as names that the LM lacks: each of their words "
        "earns a bonus in the search; a boost of its own may follow a tab; also without --lm",
    )
    add(
        "--words-boost",
        type=float,
        default=BOOST,
        help="bonus in nats of those of --words that state none (%(default)g); more finds more of them, also "
        "where nobody said them",
    )
    add(
        "--n-best",
        type=int,
        default=0,
        help="write so many hypotheses of each utterance, with the parts of their scores: with --data beside "
        "the results (SPLIT.LM.nbest.jsonl), with --audio in --format json; also without --lm (default 0)",
    )
    add("--tune-on", nargs="+", default=[], help="dev splits to tune on (default: all dev* in --data)")
    add(
        "--tune-utterances",
        type=int,
        default=0,
        help="tune on so many utterances of the dev splits, evenly spread: a transducer's search is slow "
        "(default: all)",
    )
    add(
        "--beam",
        type=int,
        help=f"hypotheses kept in beam search ({BEAM}; with a transducer {TRANSDUCER_BEAM})",
    )
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
        help="of a hybrid whose transducer searches: factor on CTC's log-probability of each "
        "hypothesis in the last beam, which is added; not tuned (%(default)g)",
    )
    add(
        "--expansions",
        type=int,
        default=EXPANSIONS,
        help="pieces on one frame at most in a transducer's beam search (%(default)s)",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", type=Path, help="folder for wer.json and the hypotheses, or for transcripts")
    add("--batch-seconds", type=float, default=120.0, help="audio in a batch (%(default)s)")
    add("--jobs", type=int, default=cpu_count(), help="processes for beam search (%(default)s)")
    add_device_options(group)


GROUPS: dict[str, Callable[[argparse._ArgumentGroup], None]] = {
    "model": _add_model,
    "splits that are scored": _add_splits,
    "recordings": _add_recordings,
    "streams": _add_stream,
    "beam search": _add_search,
    "output and running": _add_running,
}


# ---- What goes together


def _check_task(args: argparse.Namespace) -> None:
    """One of --data, --audio and --stream."""
    if args.stream:
        _check_stream(args)
    elif bool(args.audio) == bool(args.data):
        raise UserError("give either --data with --splits, or --audio, or --stream")


def _check_stream(args: argparse.Namespace) -> None:
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


def _check_encoding(args: argparse.Namespace) -> None:
    """What the encoder is to do."""
    if args.forget is not None and not SHORTEST_HALF_LIFE <= args.forget <= LONGEST_HALF_LIFE:
        raise UserError(
            f"--forget {args.forget:g}: must lie between {SHORTEST_HALF_LIFE} and {LONGEST_HALF_LIFE} seconds"
        )
    if args.chunk_ms is not None:
        if args.audio:
            raise UserError("--chunk-ms wants --stream or --data")
        if not 0 < args.chunk_ms <= LONGEST_CHUNK_MS:
            raise UserError(f"--chunk-ms {args.chunk_ms:g}: must be positive, and {LONGEST_CHUNK_MS} at most")


def _check_others(args: argparse.Namespace) -> None:
    """Options of another task than the one that is asked for."""
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
    if not args.data and (args.splits or args.tune_on or args.tune_utterances):
        raise UserError("--splits, --tune-on and --tune-utterances want --data")


def _check_splits(args: argparse.Namespace) -> None:
    if args.normalise and not args.data:
        raise UserError("--normalise wants --data: transcripts are as the model writes them")
    if args.data and not (args.splits and args.out):
        raise UserError("--data wants --splits and --out")
    for option, splits in (("--splits", args.splits), ("--tune-on", args.tune_on)):
        for split in splits:
            if splits.count(split) > 1:
                raise UserError(f"{option} {split}: named twice")
            if "/" in split:  # ./test would pass for no test set
                raise UserError(f"{option} {split}: wants names of splits in --data, and no paths")


def _check_search(args: argparse.Namespace) -> None:
    if args.lm_weight is not None and not args.lm:
        raise UserError("--lm-weight wants --lm")
    for option, path in (("--lm", args.lm), ("--words", args.words)):
        if path and path.stem == "none":
            raise UserError(f"{option} {path}: rename it; results without an LM are called 'none'")
    if args.words_boost != BOOST and not args.words:
        raise UserError("--words-boost wants --words")
    if not 0 < args.words_boost <= MOST_BOOST:
        raise UserError(f"--words-boost {args.words_boost:g}: must lie above 0, up to {MOST_BOOST:g}")
    if not 0 <= args.n_best <= MOST:
        raise UserError(f"--n-best {args.n_best}: must lie between 0 and {MOST}")
    if args.n_best and (args.stream or (args.audio and args.format != "json")):
        raise UserError("--n-best wants --data, or --audio with --format json")


def _check_out(args: argparse.Namespace) -> None:
    if args.out:
        there = next(path for path in (args.out, *args.out.absolute().parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise UserError(f"--out {args.out}: no folder that may be written to")


def _check_weights(args: argparse.Namespace) -> None:
    for name, most in MOST_WEIGHT.items():
        value = getattr(args, name)
        if value is not None and not -most <= value <= most:
            raise UserError(f"{spell(name)} {value:g}: must lie between {-most:g} and {most:g}")
    if args.tune_on and not args.lm:
        raise UserError("--tune-on wants --lm")
    if (args.beam is not None or args.expansions != EXPANSIONS) and not args.searches:
        raise UserError("--beam and --expansions want --lm, --words or --n-best: else decoding is greedy")
    if args.ctc_weight and not args.searches:
        raise UserError("--ctc-weight wants --lm, --words or --n-best: greedy decoding has one hypothesis")


def _weights(args: argparse.Namespace) -> Weights | None:
    """Those that are given; three of them go together."""
    given = [args.lm_weight, args.word_score, args.unknown_penalty]
    if any(value is None for value in given) and any(value is not None for value in given):
        raise UserError("--lm-weight, --word-score and --unknown-penalty go together")
    if None not in given:
        return Weights(*given, args.ilm_weight or 0.0)
    if args.ilm_weight is not None:
        raise UserError(
            "--ilm-weight wants --lm-weight, --word-score and --unknown-penalty; else it is tuned"
        )
    return None


def _check_tuning(args: argparse.Namespace) -> None:
    """What is to be tuned, and how the search goes."""
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


CHECKS = (
    _check_task,
    _check_encoding,
    _check_others,
    _check_splits,
    _check_search,
    _check_out,
    _check_weights,
)

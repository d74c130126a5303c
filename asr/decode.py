"""What decode.py does: decode splits and report WER, transcribe recordings, or stream."""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from asr.attention.linear import CentredAttention
from asr.checkpoints.checkpoint import Recipe, check_tokenizer, digest_of_weights
from asr.data import audio
from asr.data.manifest import Utterance, find_manifest, find_splits, read_manifest
from asr.data.pcm import read_pcm
from asr.data.recordings import Recording
from asr.data.style import Style, style_of
from asr.data.tokenizer import Tokenizer
from asr.decoding import BEAM, options
from asr.decoding.captions import Transcript
from asr.decoding.heads import choose_head
from asr.decoding.live import Session
from asr.decoding.live_output import paced, show
from asr.decoding.live_words import BeamWords
from asr.decoding.posteriors import (
    Encoded,
    Posteriors,
    compute_encoded,
    compute_posteriors,
    pool_splits,
    spread,
)
from asr.decoding.transcription import Output, run
from asr.decoding.tuning import UNTUNED, Surface, at_bounds, check_dev, format_surface, tune
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.device import autocast, describe
from asr.model.recogniser import Model
from asr.model.streaming import CHUNK_SECONDS, refuse_to_stream
from asr.scoring.normalise import Normaliser, as_scored_in
from asr.transcriber import LanguageModel, Transcriber, load

if TYPE_CHECKING:
    from asr.decoding.beam import BeamPool
    from asr.decoding.evaluation import Row
    from asr.decoding.transducer_beam import TransducerSearch

LONG = 120.0  # seconds of a recording from which on it matters that attention forgets


def decode(args: argparse.Namespace) -> int:
    """Decode splits, transcribe recordings, or stream; returns the exit status.

    Args:
        args: the command line (``asr.decoding.options.parse``).
    """
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
    return choose_head(config, args.head or "", args.searches, ctc_only, weights, options.spell)


@dataclass
class Splits:
    """What --data names, by split, those to tune on among them."""

    tuned_on: list[str]
    manifests: dict[str, list[Utterance]]
    styles: dict[str, Style | Normaliser]  # what hypotheses are brought to, by a normaliser references too
    outputs: dict[str, Posteriors] | dict[str, Encoded] = field(default_factory=dict)


@dataclass
class Tuned:
    """How the LM counts, and how that was found."""

    weights: Weights | None
    surface: Surface = field(default_factory=dict)
    seconds: float = 0.0


def evaluate(args: argparse.Namespace, transcriber: Transcriber) -> None:
    """Decode splits, print the table, write the results."""
    # Not above: transcribing need not wait for it, nor for matplotlib.
    from asr.decoding.evaluation import format_table, write_results
    from asr.scoring.report.write import report_on

    splits = read_splits(args, transcriber)
    started = time.monotonic()
    # The pool first: an LM that cannot be used should say so before the acoustic model runs.
    with transcriber:
        pool = _beam_pool(args, transcriber) if args.searches else None
        encode_splits(args, transcriber, splits)
        tuned = tune_weights(args, transcriber, splits, pool)
        rows = decode_splits(args, transcriber, splits, pool, tuned.weights)
    seconds = {
        "tuning": tuned.seconds,
        "acoustic model": sum(found.seconds for found in splits.outputs.values()),
        "search": sum(row.seconds for row in rows),
        "in all": time.monotonic() - started,
    }
    hours = sum(found.audio_seconds for found in splits.outputs.values()) / 3600
    print(format_table(rows))
    print(f"{hours:.2f} h of audio; " + ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items()))
    for row in rows:
        if row.oracle_wer is not None:
            print(f"{row.split}, {row.lm}: oracle WER of {args.n_best}-best lists {row.oracle_wer:.2f} %")
    unknown = count_oov(args, splits, pool) if args.lm else {}
    about = describe_run(args, transcriber, splits, tuned, unknown, seconds)
    write_results(args.out, rows, splits.outputs, about)
    print(f"written to {args.out / 'wer.json'}")
    print(f"error report in {report_on(args.out)}")


def read_splits(args: argparse.Namespace, transcriber: Transcriber) -> Splits:
    """The splits to decode and to tune on, as their manifests have them."""
    if args.chunk_ms:
        refuse_to_stream(transcriber.model)
    tuned_on = _dev_splits(args) if args.lm and not args.weights else []
    manifests = _read_manifests(args, tuned_on)
    return Splits(tuned_on, manifests, _styles(args, transcriber.recipe.tokenizer, manifests))


def encode_splits(args: argparse.Namespace, transcriber: Transcriber, splits: Splits) -> None:
    """The acoustic model's part."""
    model, tokenizer = transcriber.model, transcriber.recipe.tokenizer
    chunk = model.framing.frames_in(args.chunk_ms / 1000) if args.chunk_ms else 0
    compute = partial(compute_posteriors, chunk=chunk) if args.head == "ctc" else compute_encoded
    for split, utterances in splits.manifests.items():
        splits.outputs[split] = compute(
            model, utterances, tokenizer, args.batch_seconds, f"{split}, acoustic model"
        )


def tune_weights(
    args: argparse.Namespace,
    transcriber: Transcriber,
    splits: Splits,
    pool: "BeamPool | TransducerSearch | None",
) -> Tuned:
    """Weights for the LM: those that are given, or else tuned on the dev splits together."""
    if not splits.tuned_on:
        return Tuned(args.weights)
    names, most = splits.tuned_on, args.tune_utterances
    pooled = pool_splits([splits.outputs[split] for split in names], most)
    styles = spread([splits.styles[split] for split in names for _ in splits.manifests[split]], most)
    begun = time.monotonic()
    weights, surface = _tune(
        pool,
        pooled,
        transcriber.recipe.tokenizer,
        styles,
        " + ".join(names),
        args.head == "transducer",
        bool(args.words),
    )
    return Tuned(weights, surface, time.monotonic() - begun)


def decode_splits(
    args: argparse.Namespace,
    transcriber: Transcriber,
    splits: Splits,
    pool: "BeamPool | TransducerSearch | None",
    weights: Weights | None,
) -> "list[Row]":
    """Rows of the table: each split greedily, and by beam search where there is something to search with."""
    from asr.decoding.evaluation import decode_beam, decode_greedy, decode_transducer

    tokenizer, rows = transcriber.recipe.tokenizer, []
    for split in args.splits:
        found, style = splits.outputs[split], splits.styles[split]
        if args.head == "ctc":
            rows.append(decode_greedy(split, found, tokenizer, style))
        else:
            rows.append(decode_transducer(split, found, tokenizer, transcriber.model.transducer, style))
        if args.searches:
            name, at = _search_name(args), weights or GREEDY
            rows.append(decode_beam(split, found, tokenizer, pool, name, at, style, args.n_best))
    return rows


def count_oov(
    args: argparse.Namespace, splits: Splits, pool: "BeamPool | TransducerSearch"
) -> dict[str, dict[str, int]]:
    """Print, and return, how many of each split's words the LM lacks."""
    from asr.decoding.evaluation import count_unknown
    from asr.lm.files import vocabulary

    unknown = {}
    style = pool.style if args.case == "fold" else None
    words = vocabulary(args.lm)
    for split in args.splits:
        count, of = count_unknown(splits.outputs[split].references, words, style)
        unknown[split] = {"oov": count, "words": of}
        rate = 100 * count / of
        print(f"{split}: {args.lm.stem} lacks {count} of the references' {of} words (OOV {rate:.2f} %)")
    return unknown


def describe_run(
    args: argparse.Namespace,
    transcriber: Transcriber,
    splits: Splits,
    tuned: Tuned,
    unknown: dict[str, dict[str, int]],
    seconds: dict[str, float],
) -> dict:
    """What wer.json says beside the table."""
    model = transcriber.model
    about = {
        "checkpoint": str(args.checkpoint),
        "attention": transcriber.recipe.model.attention,
        "head": args.head,
        "parameters": sum(p.numel() for p in model.parameters()),
        "computed": describe(model),
        "command": shlex.join(["python", *sys.argv]),
        "weights": digest_of_weights(model.state_dict()),
    }
    if written := {
        split: str(splits.styles[split]) for split in args.splits if splits.styles[split] != Style()
    }:
        about["scored"] = written
    about |= {name: value for name in ("chunk_ms", "forget") if (value := getattr(args, name))}
    if args.words:
        about["hotwords"] = {"file": str(args.words), "words": len(args.hotwords), "boost": args.words_boost}
    if args.lm:
        about |= {**tuned.weights._asdict(), "tuned_on": splits.tuned_on, "unknown": unknown}
        if args.tune_utterances:
            about["tune_utterances"] = args.tune_utterances
        if args.head == "ctc":
            del about["ilm_weight"]
    if args.searches and args.head == "transducer":
        about |= {"expansions": args.expansions, "ctc_weight": args.ctc_weight}
    if tuned.surface:
        about["tuning"] = [[*point, wer] for point, wer in sorted(tuned.surface.items())]
    about["seconds"] = {name: round(taken, 2) for name, taken in seconds.items()}
    return about


def transcribe(args: argparse.Namespace, transcriber: Transcriber) -> int:
    """Transcribe recordings, folders, lists and manifests; 1 if one of them could not be."""
    output = Output(args.format, args.timestamps, args.out)
    lm = _language_model(args) if args.searches else None
    with transcriber:
        if lm:
            _say_weights(args)
            _beam_pool(args, transcriber)  # says how words are looked up, before anything is transcribed

        def transcribed(items: Sequence[Recording | UserError]) -> Iterator[Transcript | UserError]:
            if not args.segment_seconds:
                advise(items, transcriber.model)
            return transcriber.transcribe_each(items, lm=lm, n_best=args.n_best)

        return run(args.audio, output, transcribed, args.channel)


def advise(items: Sequence[Recording | UserError], model: Model) -> None:
    """Say what helps where a recording is long and linear-time attention does not forget.

    The figures: RESULTS.md, "Length".
    """
    seconds = max((item.seconds for item in items if isinstance(item, Recording)), default=0.0)
    layers = [block.attention for block in model.encoder.blocks]
    if seconds > LONG and any(isinstance(layer, CentredAttention) and not layer.forgets for layer in layers):
        print(
            f"{seconds / 60:.0f} minutes in one pass: this model's attention does not forget, and makes more "
            "errors the longer a recording is; --forget 5 or --segment-seconds 20 helps",
            file=sys.stderr,
        )


def stream(args: argparse.Namespace, model: Model, recipe: Recipe) -> int:
    """Write the words of a file or of standard input while they are spoken."""
    words = None
    if args.searches:
        from asr.decoding.beam import BeamDecoder

        lm = _language_model(args)
        decoder = BeamDecoder(lm.path, recipe.tokenizer, lm.beam or BEAM, fold=lm.fold, hotwords=lm.hotwords)
        _say_weights(args)
        words = BeamWords(recipe.tokenizer, model.framing.seconds, decoder, lm.counted)
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
        args.weights,
        args.beam or 0,
        args.jobs,
        args.case == "fold",
        args.expansions,
        args.ctc_weight,
        args.hotwords,
    )


def _search_name(args: argparse.Namespace) -> str:
    """What rows and files of beam search are called by: LM+WORDS, without an LM none+WORDS or none+beam."""
    more = args.words.stem if args.words else "" if args.lm else "beam"
    return "+".join(filter(None, (args.lm.stem if args.lm else "none", more)))


def _say_weights(args: argparse.Namespace) -> None:
    """That an LM's weights are not tuned, where they are not given."""
    if args.lm and not args.weights:
        print(f"{UNTUNED}, not tuned", file=sys.stderr)


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
) -> dict[str, Style | Normaliser]:
    """What each split's hypotheses are brought to, which leaves most models' as they are."""
    if args.normalise:
        return dict.fromkeys(manifests, Normaliser(args.normalise))
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
    known = {mark for split in tuned_on for item in manifests[split] for mark in _marks(item)}
    for split in args.splits:
        if split not in tuned_on and any(_marks(item) & known for item in manifests[split]):
            raise UserError(
                f"{split} shares utterances with {' + '.join(tuned_on)}, on which the LM weight would be "
                "tuned; name another dev split with --tune-on"
            )
    return manifests


def _marks(utterance: Utterance) -> set[tuple]:
    """What tells an utterance: its id, with its text or its length.

    An id alone need not: NeMo's manifests have none, and files of two splits may be called alike.
    """
    return {(utterance.id, utterance.text), (utterance.id, round(utterance.duration, 2))}


def _tune(
    pool: "BeamPool | TransducerSearch",
    encoded: Posteriors | Encoded,
    tokenizer: Tokenizer,
    styles: list[Style | Normaliser],
    split: str,
    internal: bool,
    hotwords: bool,
) -> tuple[Weights, Surface]:
    from asr.scoring.errors import word_error_rate  # with jiwer

    references = [
        as_scored_in(style, [text])[0] for style, text in zip(styles, encoded.references, strict=True)
    ]

    def wer(weights: Weights) -> float:
        found = pool.decode(encoded.outputs, weights)
        texts = map(tokenizer.decode, found)
        hypotheses = [style.apply(text) for style, text in zip(styles, texts, strict=True)]
        return word_error_rate(references, hypotheses)

    best, tried = tune(wer, internal)
    without = "hotwords without the LM" if hotwords else "greedy"
    remark = "" if best != GREEDY else f"; the LM does not help: this is {without}"
    print(
        f"tuned on {split}: {best} (WER {tried[best]:.2f} % there, {without} {tried[GREEDY]:.2f} %){remark}"
    )
    if bounds := at_bounds(best):
        print(f"tuning ended at its bounds ({', '.join(bounds)}): beyond them WER may be lower")
    print(format_surface(tried))
    return best, tried


def _dev_splits(args: argparse.Namespace) -> list[str]:
    """The splits to tune on: those named, or else all dev* in --data."""
    found = args.tune_on or find_splits(args.data, "dev")
    if not found:
        raise UserError(
            f"--data {args.data}: no split dev* to tune the LM weight on; name a split with --tune-on, "
            "or give --lm-weight, --word-score and --unknown-penalty"
        )
    return found

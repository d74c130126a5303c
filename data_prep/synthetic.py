"""A synthetic corpus for the demo and quick tests: made-up sentences read by espeak-ng's voices.

    python -m data_prep.synthetic --out data/demo

Writes train.jsonl, dev.jsonl and test.jsonl with their audio, and lm.txt, text for the language model
from the same grammar. No voice and no sentence of dev or test occurs in train, none of their sentences
in lm.txt. The same seed gives the same corpus. It is synthetic speech: good for seeing the whole path
work in minutes, no evidence about recognising people.
"""

import argparse
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from tqdm import tqdm

from asr.data.manifest import Utterance, write_manifest
from asr.errors import UserError, run_program
from asr.files import atomic_path, atomic_write
from asr.processes import cpu_count
from data_prep.espeak import SAMPLE_RATE, speaker, variants
from data_prep.sentences import make_sentence

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")


@dataclass(frozen=True)
class Line:
    """One sentence to be spoken, and how."""

    id: str
    audio: Path
    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int


def plan(out: Path, sizes: dict[str, int], seed: int) -> dict[str, list[Line]]:
    """Choose voices and sentences for every split; nothing is shared between splits."""
    rng = random.Random(seed)
    names = variants()
    rng.shuffle(names)
    # A tenth of the voice variants for dev, a fifth for test, the rest for training.
    tenth = len(names) // 10
    voices = {"dev": names[:tenth], "test": names[tenth : 3 * tenth], "train": names[3 * tenth :]}
    taken: set[str] = set()
    splits = {}
    for split in ("test", "dev", "train"):
        sentences = _fresh_sentences(sizes[split], taken, rng)
        if split != "train":  # training may say a sentence twice, in two voices
            taken.update(sentences)
        lines = []
        for number, text in enumerate(sentences):
            variant = voices[split][number % len(voices[split])]
            id = f"{split}-{variant.replace(' ', '_')}-{number:05d}"
            lines.append(
                Line(
                    id=id,
                    audio=out / "audio" / split / f"{id}.wav",
                    text=text,
                    voice=f"{rng.choice(ACCENTS)}+{variant}",
                    rate=rng.randint(140, 190),
                    pitch=rng.randint(35, 65),
                    pitch_range=rng.randint(30, 70),
                )
            )
        splits[split] = lines
    return splits


def language_model_text(count: int, seed: int, held_out: set[str]) -> list[str]:
    """``count`` sentences of the same grammar, none of them in ``held_out``."""
    rng = random.Random(seed + 1)
    return _fresh_sentences(count, held_out, rng)


def _fresh_sentences(count: int, held_out: set[str], rng: random.Random) -> list[str]:
    sentences: list[str] = []
    while len(sentences) < count:
        sentence = make_sentence(rng)
        if sentence not in held_out:
            sentences.append(sentence)
    return sentences


def _speak(line: Line) -> Utterance:
    samples = speaker().say(line.text, line.voice, line.rate, line.pitch, line.pitch_range)
    with atomic_path(line.audio) as temporary:
        soundfile.write(temporary, samples.numpy(), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return Utterance(
        id=line.id,
        audio=str(line.audio),
        duration=round(samples.numel() / SAMPLE_RATE, 4),
        text=line.text,
        speaker=line.voice.split("+")[1],
    )


def main() -> None:
    """Parse the command line and write the corpus."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the corpus to")
    parser.add_argument("--train", type=int, default=2400, help="training utterances (%(default)s)")
    parser.add_argument("--dev", type=int, default=120, help="dev utterances (%(default)s)")
    parser.add_argument("--test", type=int, default=240, help="test utterances (%(default)s)")
    parser.add_argument("--lm-sentences", type=int, default=30_000, help="sentences of LM text (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another corpus (1)")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="processes (%(default)s)")
    args = parser.parse_args()
    sizes = {"train": args.train, "dev": args.dev, "test": args.test}
    for option, value in (*sizes.items(), ("lm-sentences", args.lm_sentences), ("jobs", args.jobs)):
        if value < 1:
            raise UserError(f"--{option} {value}: must be at least 1")

    splits = plan(args.out, sizes, args.seed)
    lines = [line for split in splits.values() for line in split]
    # espeak-ng carries state from one utterance to the next. A fresh process for every chunk makes the
    # samples a function of the seed alone; a fork server makes fresh processes cheap.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.espeak"])
    with context.Pool(args.jobs, torch.set_num_threads, (1,), maxtasksperchild=1) as pool:
        spoken = pool.imap(_speak, lines, chunksize=40)
        utterances = list(tqdm(spoken, total=len(lines), desc="speaking", unit="utt", disable=None))
    by_id = {utterance.id: utterance for utterance in utterances}
    held_out = {line.text for split in ("dev", "test") for line in splits[split]}
    text = language_model_text(args.lm_sentences, args.seed, held_out)
    atomic_write(args.out / "lm.txt", "\n".join(text) + "\n")
    for split, split_lines in splits.items():
        of_split = [by_id[line.id] for line in split_lines]
        write_manifest(args.out / f"{split}.jsonl", of_split)
        hours = sum(utterance.duration for utterance in of_split) / 3600
        voices = len({utterance.speaker for utterance in of_split})
        print(f"{split}: {len(of_split)} utterances, {hours:.2f} h, {voices} voices (synthetic)")


if __name__ == "__main__":
    run_program(main)

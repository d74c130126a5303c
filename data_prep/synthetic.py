"""A synthetic corpus: sentences made up from a grammar, or of a text, read by espeak-ng's voices.

    python -m data_prep.synthetic --out data/demo
    python -m data_prep.synthetic --out data/read --text novels.txt.xz --hours 10

Writes train.jsonl, dev.jsonl and test.jsonl with their audio. No voice and no sentence of dev or test occurs
in train. The same seed gives the same corpus. It is synthetic speech: good for seeing the whole path work in
minutes, and for a model to begin with before real speech; no evidence about recognising people.

Without --text, sentences come from a small grammar, and lm.txt, text for the language model, from the same
grammar, without the sentences of dev and test. So few words take a model past CTC's plateau.

With --text, sentences of 2 to 20 words are drawn from a file with one sentence a line (plain, .gz or .xz),
until train has --hours of speech; if the text runs out, it is read again in other voices. Transcripts are
upper case, letters and apostrophe only; sentences with digits are left out. Voices of many accents speak at
about the rate of people who read aloud, with pauses where the text has commas (or between phrases, where it
has no punctuation), some silence at both ends, and faint noise behind.
"""

import argparse
import io
import math
import multiprocessing
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import soundfile
import torch
from tqdm import tqdm

from asr.data.manifest import Utterance, write_manifest
from asr.errors import UserError, run_program
from asr.files import atomic_write
from asr.lm.build import read_sentences
from asr.processes import cpu_count
from data_prep.espeak import SAMPLE_RATE, speaker, variants
from data_prep.phrases import LONGEST, SHORTEST, draw_phrases, draw_sentences
from data_prep.sentences import make_sentence

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
MORE_ACCENTS = (*ACCENTS, "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en")
RATE, SPREAD = 150, 20  # of the speaking rate in readings: mean and deviation
CHUNK = 40  # utterances that one process speaks


@dataclass(frozen=True)
class Line:
    """One sentence to be spoken, and how.

    Args:
        phrases: spoken one after the other.
        rate: words per minute, by espeak-ng's count.
        pauses: seconds of silence before each phrase and after the last; none where empty.
        noise: level of the noise behind, in dB of the speech's; none where None.
    """

    id: str
    audio: Path
    phrases: tuple[str, ...]
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    pauses: tuple[float, ...] = ()
    noise: float | None = None

    @property
    def text(self) -> str:
        """The transcript."""
        return " ".join(self.phrases)


def cast(rng: random.Random) -> dict[str, list[str]]:
    """The voice variants of every split; none speaks in two of them."""
    names = variants()
    rng.shuffle(names)
    # A tenth of the voice variants for dev, a fifth for test, the rest for training.
    tenth = len(names) // 10
    return {"dev": names[:tenth], "test": names[tenth : 3 * tenth], "train": names[3 * tenth :]}


def plan(out: Path, sizes: dict[str, int], seed: int) -> dict[str, list[Line]]:
    """Choose voices and made-up sentences for every split; nothing is shared between splits."""
    rng = random.Random(seed)
    voices = cast(rng)
    taken: set[str] = set()
    splits = {}
    for split in ("test", "dev", "train"):
        sentences = _fresh_sentences(sizes[split], taken, rng)
        if split != "train":  # training may say a sentence twice, in two voices
            taken.update(sentences)
        lines = []
        for number, text in enumerate(sentences):
            variant = voices[split][number % len(voices[split])]
            id, audio = _name(out, split, variant, number)
            lines.append(
                Line(
                    id=id,
                    audio=audio,
                    phrases=(text,),
                    voice=f"{rng.choice(ACCENTS)}+{variant}",
                    rate=rng.randint(140, 190),
                    pitch=rng.randint(35, 65),
                    pitch_range=rng.randint(30, 70),
                )
            )
        splits[split] = lines
    return splits


def plan_text(
    out: Path, sentences: list[tuple[str, ...]], sizes: dict[str, int], seed: int
) -> tuple[dict[str, list[Line]], Iterator[Line]]:
    """Choose voices for the sentences of a text, each given as its phrases.

    Args:
        sizes: utterances of dev and test, which get the first sentences.

    Returns:
        the lines of dev and test, and training's without end: when all sentences are read, again from the
        first, in other voices.

    Raises:
        UserError: too few sentences.
    """
    rng = random.Random(seed)
    voices = cast(rng)
    different = list({" ".join(phrases): phrases for phrases in sentences}.items())
    needed = sum(sizes.values())
    if len(different) <= needed:
        raise UserError(
            f"--text: {len(different)} different sentences of {SHORTEST} to {LONGEST} words; "
            f"more than {needed} are needed for --dev, --test and training"
        )
    held_out, rest = dict(different[:needed]), dict(different[needed:])
    splits, texts = {}, iter(held_out.values())
    for split, size in sizes.items():
        numbered = enumerate(islice(texts, size))
        splits[split] = [_reading(out, split, voices[split], *item, rng) for item in numbered]

    def train() -> Iterator[Line]:
        order = list(rest.values())
        for number in count():
            yield _reading(out, "train", voices["train"], number, order[number % len(order)], rng)

    return splits, train()


def _reading(
    out: Path, split: str, voices: list[str], number: int, phrases: tuple[str, ...], rng: random.Random
) -> Line:
    """Someone of ``voices`` reads a sentence aloud."""
    variant = rng.choice(voices)
    id, audio = _name(out, split, variant, number)
    if len(phrases) == 1:
        phrases = draw_phrases(phrases[0].split(), rng)
    between = [rng.uniform(0.05, 0.5) for _ in phrases[1:]]
    return Line(
        id=id,
        audio=audio,
        phrases=phrases,
        voice=f"{rng.choice(MORE_ACCENTS)}+{variant}",
        # LibriSpeech's readers say 166 words a minute, pauses counted.
        rate=round(min(max(rng.gauss(RATE, SPREAD), 90), 200)),
        pitch=rng.randint(20, 80),
        pitch_range=rng.randint(20, 80),
        pauses=(rng.uniform(0.1, 0.5), *between, rng.uniform(0.1, 0.5)),
        noise=rng.uniform(-60, -35),
    )


def _name(out: Path, split: str, variant: str, number: int) -> tuple[str, Path]:
    """An utterance's id and its file."""
    id = f"{split}-{variant.replace(' ', '_')}-{number:05d}"
    return id, out / "audio" / split / f"{id}.wav"


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
    samples = _samples(line)
    memory = io.BytesIO()
    soundfile.write(memory, samples.numpy(), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    atomic_write(line.audio, memory.getbuffer())
    return Utterance(
        id=line.id,
        audio=str(line.audio),
        duration=round(samples.numel() / SAMPLE_RATE, 4),
        text=line.text,
        speaker=line.voice.split("+")[1],
    )


def _samples(line: Line) -> torch.Tensor:
    """The line's speech, (samples,) float32 at 16 kHz, with its pauses and noise."""
    # A comma keeps the voice up where the sentence goes on.
    spoken = [f"{phrase}," for phrase in line.phrases[:-1]] + [line.phrases[-1]]
    parts = [speaker().say(text, line.voice, line.rate, line.pitch, line.pitch_range) for text in spoken]
    level = torch.cat(parts).square().mean().sqrt()
    if line.pauses:
        silences = [torch.zeros(round(seconds * SAMPLE_RATE)) for seconds in line.pauses]
        parts = [silences[0], *chain.from_iterable(zip(parts, silences[1:], strict=True))]
    samples = torch.cat(parts)
    if line.noise is not None:
        source = torch.Generator().manual_seed(zlib.crc32(line.id.encode()))
        samples = samples + torch.randn(samples.shape, generator=source) * level * 10 ** (line.noise / 20)
    return samples


class Studio:
    """Processes that speak.

    espeak-ng carries state from one utterance to the next. A fresh process for every chunk makes the samples
    a function of the seed alone; a fork server makes fresh processes cheap.
    """

    def __init__(self, jobs: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["data_prep.espeak"])
        self._pool = context.Pool(jobs, torch.set_num_threads, (1,), maxtasksperchild=1)

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_) -> None:
        self._pool.terminate()

    def speak(self, lines: Iterable[Line]) -> Iterator[Utterance]:
        """Speak the lines, several at a time; their utterances in order."""
        return self._pool.imap(_speak, lines, chunksize=CHUNK)

    def speak_hours(self, lines: Iterator[Line], hours: float) -> Iterator[Utterance]:
        """Speak endless lines until there are so many hours; what was spoken beyond is deleted."""
        left = hours * 3600  # seconds
        while left > 0:
            chunks = math.ceil(left / (5 * CHUNK))  # most sentences last less than 5 s
            for utterance in self.speak(islice(lines, chunks * CHUNK)):
                if left > 0:
                    yield utterance
                else:
                    Path(utterance.audio).unlink()
                left -= utterance.duration


def main() -> None:
    """Parse the command line and write the corpus."""
    args = _parse()
    sizes = {"train": args.train, "dev": args.dev, "test": args.test}
    if args.text:
        # More than enough: sentences last a second and more.
        number = math.ceil(args.hours * 3600) + args.dev + args.test
        sentences = draw_sentences(read_sentences([args.text]), number, random.Random(args.seed))
        held_out, training = plan_text(args.out, sentences, {"dev": args.dev, "test": args.test}, args.seed)
    else:
        held_out = plan(args.out, sizes, args.seed)
        training = held_out.pop("train")
    spoken: dict[str, list[Utterance]] = {}
    with Studio(args.jobs) as studio:
        for split, lines in held_out.items():
            spoken[split] = list(studio.speak(lines))
        if args.text:
            utterances, total = studio.speak_hours(training, args.hours), None
        else:
            utterances, total = studio.speak(training), len(training)
        spoken["train"] = list(tqdm(utterances, total=total, desc="speaking", unit="utt", disable=None))
    if not args.text:
        taken = {line.text for lines in held_out.values() for line in lines}
        text = language_model_text(args.lm_sentences, args.seed, taken)
        atomic_write(args.out / "lm.txt", "\n".join(text) + "\n")
    for split, utterances in spoken.items():
        write_manifest(args.out / f"{split}.jsonl", utterances)
        hours = sum(utterance.duration for utterance in utterances) / 3600
        voices = len({utterance.speaker for utterance in utterances})
        print(f"{split}: {len(utterances)} utterances, {hours:.2f} h, {voices} voices (synthetic)")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the corpus to")
    parser.add_argument("--text", type=Path, help="sentences to be read, one a line, plain, .gz or .xz")
    parser.add_argument("--hours", type=float, help="hours of training speech, with --text")
    parser.add_argument("--train", type=int, help="training utterances, without --text (2400)")
    parser.add_argument("--dev", type=int, default=120, help="dev utterances (%(default)s)")
    parser.add_argument("--test", type=int, default=240, help="test utterances (%(default)s)")
    parser.add_argument("--lm-sentences", type=int, help="sentences of LM text, without --text (30000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another corpus (1)")
    parser.add_argument("--jobs", type=int, default=cpu_count(), help="processes (%(default)s)")
    args = parser.parse_args()
    if args.text:
        for option, value in (("train", args.train), ("lm-sentences", args.lm_sentences)):
            if value is not None:
                raise UserError(f"--{option}: only without --text")
        if args.hours is None or not 0 < args.hours < math.inf:
            raise UserError("--text: say with --hours how many hours of training speech; more than 0")
    elif args.hours is not None:
        raise UserError("--hours: only with --text")
    args.train = 2400 if args.train is None else args.train
    args.lm_sentences = 30_000 if args.lm_sentences is None else args.lm_sentences
    for option in ("train", "dev", "test", "lm_sentences", "jobs"):
        if (value := getattr(args, option)) < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be at least 1")
    return args


if __name__ == "__main__":
    run_program(main)

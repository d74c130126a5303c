"""How fast speech comes from the disk (here: from memory, after a first pass) as batches for training.

    python benchmarks/reader.py --data data/mini_librispeech --packed /tmp/packed [--librispeech DIR]

Three ways to the same batches: a corpus in LibriSpeech's layout as torchaudio walks it, its files read with
soundfile (--librispeech, a folder with SPLIT/SPEAKER/CHAPTER/*.flac; left out without it); the manifest of
--data, one file an utterance; its packed copy, which is made in --packed if it is not there. Passes over
the whole split, in turns; medians.
"""

import platform
import random
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import make_parser
from torch import Tensor
from torch.utils.data import Dataset
from torchaudio.datasets import LIBRISPEECH, librispeech

from asr.data.batches import FixedBatches, SpeechDataset, make_batches, make_loader
from asr.data.manifest import Utterance, read_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError, run_program
from asr.processes import cpu_count
from data_prep.pack import pack


class Walked(Dataset):
    """Utterances found and described by torchaudio, whose own way of reading them needs torchcodec."""

    def __init__(self, root: Path, split: str, utterances: list[Utterance], tokenizer: Tokenizer) -> None:
        suffixes = {path.suffix for path in root.glob(f"{split}/*/*/*")} - {".txt"}
        if not suffixes:
            raise UserError(f"--librispeech {root}: no recording in {split}/SPEAKER/CHAPTER")
        # It knows the splits of the whole corpus only, and FLAC files only.
        librispeech._DATA_SUBSETS.append(split)
        layout = type("Layout", (LIBRISPEECH,), {"_ext_audio": min(suffixes, key=lambda s: s != ".flac")})
        self.root, self.tokenizer, self.utterances = root, tokenizer, utterances
        self.walked = layout(root, split, "")
        self.numbers = {id: number for number, id in enumerate(self.walked._walker)}

    def __getitem__(self, index: int) -> tuple[np.ndarray, Tensor, Utterance]:
        utterance = self.utterances[index]
        path, _, text, *_ = self.walked.get_metadata(self.numbers[utterance.id])
        samples, _ = soundfile.read(self.root / path, dtype="float32")
        return samples, torch.tensor(self.tokenizer.encode(text)), utterance


def seconds_of_pass(loader: Iterable) -> float:
    """Time from asking for the first batch to having the last."""
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def hardware() -> str:
    """Processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {cpu_count()} cores"


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with SPLIT.jsonl")
    parser.add_argument("--packed", type=Path, required=True, help="folder of its packed copy")
    parser.add_argument("--librispeech", type=Path, help="the same split in LibriSpeech's layout")
    parser.add_argument("--split", default="train-clean-5", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="audio in a batch (%(default)s)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({0, 2, cpu_count()}), help="(%(default)s)"
    )
    parser.add_argument("--passes", type=int, default=5, help="passes counted, after one that is not (5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pack(args.data, [args.split], args.packed, jobs=1, shard_hours=4.0, verify=False)

    utterances = read_manifest(args.data / f"{args.split}.jsonl")
    tokenizer = Tokenizer(train_tokenizer([utterance.text for utterance in utterances], 256))
    datasets = {
        "one file an utterance": SpeechDataset(utterances, tokenizer),
        "packed": SpeechDataset(read_manifest(args.packed / f"{args.split}.jsonl"), tokenizer),
    }
    if args.librispeech:
        walked = Walked(args.librispeech, args.split, utterances, tokenizer)
        datasets = {f"torchaudio's walker, {walked.walked._ext_audio[1:]}": walked, **datasets}
    durations = [utterance.duration for utterance in utterances]
    batches = FixedBatches(make_batches(durations, args.seconds, random.Random(1)))
    loaders = {
        (name, workers): make_loader(dataset, batches, workers)
        for name, dataset in datasets.items()
        for workers in args.workers
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in loaders}
    for number in range(args.passes + 1):
        for key, loader in loaders.items():
            seconds = seconds_of_pass(loader)
            if number > 0:
                times[key].append(seconds)

    hours = sum(durations) / 3600
    print(f"{hardware()}; {args.split}: {hours:.2f} h, {len(utterances)} utterances")
    print(f"batches of {args.seconds:g} s; medians of {args.passes} passes in turns, files in memory")
    print(f"{'reader':28} {'workers':>7} {'h of audio/s':>12} {'x real time':>12}")
    for (name, workers), taken in times.items():
        rate = hours / statistics.median(taken)
        print(f"{name:28} {workers:7} {rate:12.2f} {3600 * rate:12,.0f}")


if __name__ == "__main__":
    run_program(main)

"""Each mechanism trained from scratch on the same speech in the same order, over seeds, and decoded.

    python benchmarks/from_scratch.py --out exp/scratch --data DATA --splits dev test --jobs 6 \\
        --attention softmax softmax:rotary linear mala inline nala --seeds 1 2 3 -- \\
        --config recipes/librispeech/conformer_s.yaml --data.train '[train]' --data.tokenizer TOKENIZER

What stands behind -- goes to train.py. Behind each further -- stand the options of a training of its own,
which begins with the weights of the one before, for recipes of several trainings:

    ... -- --data.train '[train]' --data.tokenizer TOKENIZER --training.teacher TEACHER \\
        -- --config recipes/linearise/stages.yaml -- --config recipes/linearise/whole.yaml

NAME:POSITIONS is a mechanism with other positions than its own. With --jobs several run side by side, which
fill a GPU where one does not. Every training has a folder in --out: one that is done is not run again, and
one that was stopped goes on, so that the command can be given in pieces (--attention, --seeds) and again.

WER is greedy, a line an attention: of all seeds, and of the best and the worst. The difference is to the
first attention in the list, utterance by utterance and over all seeds, with the 95 % interval of a paired
bootstrap over utterances (asr/scoring/bootstrap.py). That says how far other utterances would move it; how
far other seeds would, best and worst show.
"""

import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from common import ROOT, make_parser
from trials import Result, done_or_train

from asr.attention import ATTENTIONS
from asr.errors import UserError, run_program
from asr.scoring.bootstrap import compare
from asr.scoring.errors import word_errors
from asr.scoring.report.results import Decoded, decoded_path, read_decoded
from asr.scoring.report.text import columns, interval_text
from asr.training.beginning import digest_of


class Trial(NamedTuple):
    """A mechanism from random weights, with a seed."""

    attention: str  # NAME or NAME:POSITIONS
    seed: int

    @property
    def folder(self) -> str:
        """Its name in --out."""
        return f"{self.attention.replace(':', '-')}-seed{self.seed}"

    def options(self, more: list[str]) -> list[str]:
        """train.py's, but for its folder."""
        name, _, positions = self.attention.partition(":")
        named = ["--attention", name, *(["--positions", positions] if positions else [])]
        return [*more, *named, "--training.seed", str(self.seed)]


class Outcome(NamedTuple):
    """Of one trial: how its trainings went, and what was recognised of each split."""

    results: list[Result]
    decoded: dict[str, list[Decoded]]

    @property
    def audio_hours(self) -> float:
        """Heard in all of them."""
        return sum(result.audio_hours for result in self.results)


def run(
    trial: Trial, out: Path, data: Path, splits: list[str], trainings: list[list[str]], stopped: Event
) -> Outcome:
    """Train and decode what is not yet; each training begins with the weights of the one before."""
    results, begin, digest = [], [], ""
    for number, more in enumerate(trainings, 1):
        if stopped.is_set():
            raise UserError(f"{out / trial.folder}: not trained to its end, as another training failed")
        folder = out / trial.folder / str(number)
        options = [*trial.options(more), "--data.folder", str(data)]
        # In the place of a path, which may change, what lies there: trained anew, it is another beginning.
        command = shlex.join(["train.py", *options, *(["--init", digest] if begin else [])])
        results.append(done_or_train(folder, [*options, *begin], command, f"{trial.folder}/{number}"))
        last = folder / "checkpoints" / "last.ckpt"
        begin, digest = ["--init", str(last)], digest_of(last)[:16]
    return Outcome(results, {split: decode(folder, data, split) for split in splits})


def decode(folder: Path, data: Path, split: str) -> list[Decoded]:
    """What a training's last weights recognise, greedily."""
    results = folder / "results" / split
    path = decoded_path(results, split, "none")
    if not path.exists():
        program = [sys.executable, str(ROOT / "decode.py"), "--data", str(data), "--splits", split]
        program += ["--checkpoint", str(folder / "checkpoints" / "last.ckpt"), "--out", str(results)]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"decode.py ended with status {done.returncode}"]
            raise UserError(f"{folder}: {said[-1].removeprefix('error: ')}")
    return sorted(read_decoded(path), key=lambda utterance: utterance.id)


def format_table(split: str, outcomes: dict[Trial, Outcome]) -> str:
    """A line an attention: WER over seeds, and the difference to the first."""
    rows = [["attention", "seeds", "audio h", "WER", "best", "worst", "difference", "95 % interval"]]
    attentions = list(dict.fromkeys(trial.attention for trial in outcomes))
    errors = {name: _errors(split, name, outcomes) for name in attentions}
    first, words = errors[attentions[0]]
    for name in attentions:
        found, _ = errors[name]
        rates = sorted(100 * found.sum(1) / words.sum())
        hours = next(item.audio_hours for trial, item in outcomes.items() if trial.attention == name)
        row = [name, str(len(found)), f"{hours:.1f}", f"{np.mean(rates):.2f}"]
        row += [f"{rates[0]:.2f}", f"{rates[-1]:.2f}"]
        if found is not first:
            # Seeds are alike in number, so that sums of errors over words times seeds are means of rates.
            paired = compare(np.column_stack([first.sum(0), found.sum(0), words * len(found)]))
            row += [f"{paired.difference:+.2f}", interval_text(paired.ci95, signed=True)]
        rows.append([*row, *[""] * (len(rows[0]) - len(row))])
    return f"{split}\n{columns(rows)}"


def _errors(split: str, attention: str, outcomes: dict[Trial, Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Errors (seeds, utterances) and reference words (utterances,)."""
    of = [outcome.decoded[split] for trial, outcome in outcomes.items() if trial.attention == attention]
    counts = [[word_errors(item.ref, item.hyp) for item in decoded] for decoded in of]
    return (
        np.array([[item.total for item in row] for row in counts]),
        np.array([item.words for item in counts[0]]),
    )


def _groups(arguments: list[str]) -> list[list[str]]:
    """What stands between one -- and the next."""
    groups: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    return groups


def main() -> None:
    """Parse the command line, train and decode what is not done, print a table a split."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of all trainings")
    add("--data", type=Path, required=True, help="folder of manifests")
    add("--splits", nargs="+", default=["dev"], help="to decode (%(default)s)")
    add("--attention", nargs="+", default=["softmax", "linear", "mala"], help="mechanisms (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[1], help="(%(default)s)")
    add("--jobs", type=int, default=1, help="trainings side by side (%(default)s)")
    own, *groups = _groups(sys.argv[1:])
    args = parser.parse_args(own)
    for_all, *each = groups or [[]]
    trainings = [[*for_all, *more] for more in each or [[]]]
    for name in args.attention:
        if name.partition(":")[0] not in ATTENTIONS:
            raise UserError(f"--attention {name}: choose from {', '.join(ATTENTIONS)}")
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least 1")
    # Seed by seed, so that an interrupted run has compared all mechanisms on the seeds that it has.
    trials = dict.fromkeys(Trial(name, seed) for seed in args.seeds for name in args.attention)
    stopped = Event()
    with ThreadPoolExecutor(args.jobs) as pool:
        rest = args.out.resolve(), args.data, args.splits, trainings, stopped
        running = {pool.submit(run, trial, *rest): trial for trial in trials}
        try:
            for item in as_completed(running):
                item.result()
        except BaseException as error:
            # Trainings that run come to their end, which is kept; none begins any more.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopping, when what runs is done: {error}", file=sys.stderr, flush=True)
            raise
    outcomes = {trial: item.result() for item, trial in running.items()}
    print("\n\n".join(format_table(split, outcomes) for split in args.splits))


if __name__ == "__main__":
    run_program(main)

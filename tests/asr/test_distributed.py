"""Two processes with half a batch each do what one does with the whole."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from asr.checkpoints.checkpoint import read_checkpoint
from asr.data.batches import Batch
from asr.data.manifest import read_manifest
from asr.distributed import take_from_first
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig
from asr.training.config import TrainingConfig
from asr.training.distillation import Teacher, modules_to_match
from asr.training.losses import training_loss

ENCODER = EncoderConfig(dim=16, layers=2, heads=2, kernel=3, dropout=0.0)
FRONTEND = FrontendConfig(mels=20, frequency_masks=0, time_masks=0, speeds=(1.0,))


def gradients(
    config: TrainingConfig, rows: slice, batch_norm: str = "all", untranscribed: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Gradients and batch statistics from some rows of a fixed batch."""
    torch.manual_seed(0)
    encoder = dataclasses.replace(ENCODER, batch_norm=batch_norm)
    small = TransducerConfig(hidden=8, joint=8, dropout=0.0)
    head = "hybrid" if config.transducer else "ctc"
    wanted = ModelConfig("mala", encoder=encoder, frontend=FRONTEND, head=head, transducer=small)
    model = Model(wanted, pieces=12).double().train()
    samples, pieces = torch.tensor([16_000, 9_000, 12_345, 5_000]), torch.tensor([5, 2, 4, 1])
    waveforms, targets = torch.randn(4, 16_000, dtype=torch.float64), torch.randint(1, 13, (4, 5))
    there = torch.ones(4, dtype=torch.bool)
    pieces[list(untranscribed)], there[list(untranscribed)] = 0, False
    ids = list("abcd")
    batch = Batch(
        ids[rows], waveforms[rows], samples[rows], targets[rows], pieces[rows], ids[rows], there[rows]
    )
    with counted_messages() as forward:
        loss, losses, _ = training_loss(model, batch, config, make_teacher(config))
    assert losses.shape == (len(batch.ids),)
    with counted_messages() as backward:
        loss.backward()
    if dist.is_initialized():
        norms = ENCODER.layers if batch_norm == "all" else 0
        assert (len(forward), len(backward)) == (norms + 1, norms)  # the one more has the pieces
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: value for name, value in model.named_buffers() if "running" in name}


def make_teacher(config: TrainingConfig) -> Teacher | None:
    """A model of the attention that ``config.teacher`` names, with random weights."""
    if not config.teacher:
        return None
    torch.manual_seed(1)
    model = Model(ModelConfig(config.teacher, encoder=ENCODER, frontend=FRONTEND), pieces=12).double()
    return Teacher(model, same_features=True, modules=modules_to_match(model, config))


@contextlib.contextmanager
def counted_messages():
    """The names of the collective operations that a block calls."""
    calls = []
    with contextlib.ExitStack() as stack:
        for name in ("all_reduce", "all_gather_into_tensor", "broadcast"):
            original = getattr(dist, name)

            def counting(*args, name=name, original=original, **options):
                calls.append(name)
                return original(*args, **options)

            stack.enter_context(mock.patch.object(dist, name, counting))
        yield calls


def rank_main(
    rank: int, meeting: str, out: str, config: TrainingConfig, batch_norm: str, untranscribed: Sequence[int]
) -> None:
    """One of the two processes."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = gradients(config, slice(rank, None, 2), batch_norm, untranscribed)
    for name, value in found.items():
        if "running" not in name and batch_norm == "all":  # what DistributedDataParallel does
            dist.all_reduce(value)
            value /= 2
    of_first = torch.tensor([10.0 + rank])
    take_from_first([of_first])
    assert of_first == 10
    torch.save(found, f"{out}.{rank}")
    dist.destroy_process_group()


def run_two(
    out: Path, config: TrainingConfig, batch_norm: str, untranscribed: Sequence[int] = ()
) -> list[dict[str, torch.Tensor]]:
    """What each of two processes finds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asr.training.task"])  # PyTorch and Lightning once for all of them
    with tempfile.TemporaryDirectory() as folder:
        rest = f"{folder}/meeting", str(out), config, batch_norm, untranscribed
        processes = [context.Process(target=rank_main, args=(rank, *rest)) for rank in range(2)]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(timeout=300)
            assert [process.exitcode for process in processes] == [0, 0]
        finally:
            for process in processes:  # one that waits for the other would wait for ever
                process.kill()
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


TEACHING = {"ctc": 0.5, "distil_posteriors": 1.0, "distil_encoder": 0.1, "distil_attention": 1.0}


@pytest.mark.parametrize(
    ("options", "untranscribed"),
    [
        ({}, []),
        ({"intermediate": 0.3}, []),
        ({"ctc": 0.3, "transducer": 1.0}, []),
        ({"teacher": "softmax", **TEACHING}, []),
        ({"teacher": "softmax", **TEACHING}, [1, 3]),  # all of the second rank's
        # A small weight, so that gradients are as great as the others': in a random model they are in the
        # thousands, and so is the rounding of biases before batch norm, whose gradient is 0.
        ({"teacher": "softmax", "ctc": 0.0, "distil_modules": 1e-3}, []),
    ],
    ids=str,
)
def test_two_ranks_with_half_the_batch_give_the_gradients_of_one_with_the_whole(
    tmp_path, options, untranscribed
):
    config = TrainingConfig(**options)
    whole = gradients(config, slice(None), "all", untranscribed)
    for found in run_two(tmp_path / "found", config, "all", untranscribed):
        assert found.keys() == whole.keys()
        for name, value in found.items():
            assert torch.allclose(value, whole[name], rtol=1e-8, atol=1e-12), name


def test_local_batch_statistics_are_those_of_a_run_of_one_process(tmp_path):
    pieces = 12  # of all ranks, by which the loss of each is divided
    for rank, found in enumerate(run_two(tmp_path / "found", TrainingConfig(), "local")):
        alone, mine = gradients(TrainingConfig(), slice(rank, None, 2)), [9, 3][rank]
        for name, value in found.items():
            share = 1 if "running" in name else 2 * mine / pieces
            assert torch.allclose(value, share * alone[name], rtol=1e-8, atol=1e-12), name


TINY = """
attention: mala
encoder: {dim: 16, layers: 1, heads: 2, kernel: 3, dropout: 0.1}
frontend: {mels: 20, frequency_width: 3, time_masks: 1}
training: {steps: 20, seconds: 20, warmup: 2, validate_every: 20, precision: fp32, accelerator: cpu}
"""

# train.py whose ranks list the utterances of each batch, and whose second rank gets SIGTERM at a batch.
PROGRAM = """
import os, pathlib, signal, sys
from asr.training.config import parse_config
from asr.training.run import train
from asr.training.task import TrainingTask

seen, warned_at, *arguments = sys.argv[1:]
original, calls = TrainingTask.training_step, []

def listing(task, batch, index):
    with pathlib.Path(f"{seen}.{task.global_rank}").open("a") as file:
        file.write(" ".join(batch.ids) + "\\n")
    calls.append(index)
    if task.global_rank == 1 and len(calls) == int(warned_at):
        os.kill(os.getpid(), signal.SIGTERM)
    return original(task, batch, index)

TrainingTask.training_step = listing
train(parse_config(arguments))
"""


def test_a_run_on_two_ranks_sees_every_utterance_once_and_survives_sigterm(corpus, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(name: str, warned_at: int) -> int:
        command = [sys.executable, tmp_path / "program.py", tmp_path / f"{name}.seen", str(warned_at)]
        command += ["--config", tmp_path / "tiny.yaml", "--out", tmp_path / name, "--resume", "auto"]
        command += ["--data.folder", corpus, "--data.tokenizer", corpus / "tokenizer.model"]
        command += ["--training.devices", "2"]
        return subprocess.run(list(map(str, command)), timeout=200).returncode

    def seen(name: str) -> list[list[str]]:
        """The ids of all batches, in the order of their numbers."""
        ranks = [(tmp_path / f"{name}.seen.{rank}").read_text().splitlines() for rank in range(2)]
        return [line.split() for pair in zip(*ranks, strict=True) for line in pair]

    def last(name: str) -> dict:
        return read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")

    assert run("whole", warned_at=0) == 0
    batches, everyone = seen("whole"), sorted(u.id for u in read_manifest(corpus / "train.jsonl"))
    assert len(batches) == 2 * 20
    counts = list(itertools.accumulate(map(len, batches)))
    for start, end in itertools.pairwise([0, *(n for n in counts if n % len(everyone) == 0)]):
        ids = list(itertools.chain(*batches))[start:end]
        assert sorted(ids) == everyone
    assert counts[-1] > 2 * len(everyone)

    assert run("parts", warned_at=3) == 128 + signal.SIGTERM
    assert last("parts")["global_step"] == 10
    assert run("parts", warned_at=0) == 0
    assert seen("parts") == batches
    whole, parts = last("whole"), last("parts")
    assert parts["global_step"] == 20
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name


# train.py of which one rank fails in step 3, and another waits there for ever, as in a collective under NCCL.
FAILING = """
import os, sys, time
from asr.errors import UserError, run_program
from asr.training.config import parse_config
from asr.training.run import train
from asr.training.task import TrainingTask

failing, waiting, kind, *arguments = sys.argv[1:]
original, calls = TrainingTask.training_step, []

def step(task, batch, index):
    calls.append(index)
    if len(calls) == 3:
        os.write(1, b"third step\\n")  # in one piece: both ranks write to one pipe
        if str(task.global_rank) == failing:
            raise {"bad input": UserError, "fault": RuntimeError}[kind]("it went wrong")
        if str(task.global_rank) == waiting:
            time.sleep(600)
    return original(task, batch, index)

TrainingTask.training_step = step
run_program(lambda: train(parse_config(arguments)))
"""


@pytest.mark.parametrize(("failing", "waiting", "kind"), [(0, 1, "bad input"), (1, None, "fault")])
def test_when_one_rank_fails_all_end_and_the_error_is_told_once(corpus, tmp_path, failing, waiting, kind):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "program.py").write_text(FAILING)
    command = [sys.executable, tmp_path / "program.py", failing, waiting, kind]
    command += ["--config", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "--training.devices", "2"]
    command += ["--data.folder", corpus, "--data.tokenizer", corpus / "tokenizer.model"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(list(map(str, command)), **pipes) as process:
        while "third step" not in (line := process.stdout.readline()):
            assert line, "ended before"
        too_late = threading.Timer(30, os.killpg, (process.pid, signal.SIGKILL))
        too_late.start()
        told = process.stdout.read()  # to the end of the last process that could still write
        in_time = too_late.is_alive()
        too_late.cancel()
    assert in_time and process.returncode == 1
    errors = {"bad input": "error: it went wrong", "fault": "RuntimeError: it went wrong"}
    assert [line for line in told.splitlines() if "rror: " in line] == [errors[kind]]
    assert ("Traceback" in told) == (kind == "fault")

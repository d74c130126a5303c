"""Runs that are killed, warned or fed nonsense: they end up where one never interrupted does."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from asr.checkpoints.checkpoint import read_checkpoint
from asr.errors import UserError
from asr.model.ctc import CTCHead
from asr.training.config import parse_config
from asr.training.run import train
from asr.training.task import TrainingTask
from asr.training.termination import SaveInTime

TINY = """
attention: mala
encoder: {dim: 16, layers: 1, heads: 2, kernel: 3, dropout: 0.1}
frontend: {mels: 20, frequency_width: 3, time_masks: 1}
training: {steps: 8, seconds: 20, warmup: 2, validate_every: 4, nonspeech: 0.2,
           precision: fp32, accelerator: cpu}
"""

# Runs train.py's way and is killed: at a training step, or in the middle of writing a checkpoint.
KILLED = """
import os, pathlib, signal, sys
from asr.training.config import parse_config
from asr.training.run import train
from asr.training.task import TrainingTask

moment, number, *arguments = sys.argv[1:]
owner, name = {"step": (TrainingTask, "training_step"), "rename": (pathlib.Path, "replace")}[moment]
original, calls = getattr(owner, name), []

def counting(self, *args):
    if moment == "step" or self.name.startswith(".last.ckpt"):
        calls.append(self)
        if len(calls) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args)

setattr(owner, name, counting)
train(parse_config(arguments))
"""


@pytest.fixture
def arguments(corpus, tmp_path):
    """Command line of a tiny run, by the name of its folder."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def build(out: str, *more: str) -> list[str]:
        options = ["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / out), "--resume", "auto"]
        options += ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
        return [*options, *more]

    return build


def last(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def assert_same(found: dict, expected: dict) -> None:
    """Weights, average, optimiser and schedule, bit for bit."""
    assert found["global_step"] == expected["global_step"] == 8
    assert found["lr_schedulers"] == expected["lr_schedulers"]
    for part in ("state_dict", "average"):
        assert found[part].keys() == expected[part].keys()
        assert all(torch.equal(value, expected[part][name]) for name, value in found[part].items())
    states = (content["optimizer_states"][0]["state"] for content in (found, expected))
    for mine, theirs in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_killed_runs_end_up_bit_for_bit_where_others_do(arguments, tmp_path):
    def start(moment: str, number: int) -> int:
        command = [sys.executable, "-c", KILLED, moment, str(number), *arguments("killed")]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    assert start("step", 7) == -signal.SIGKILL  # after the checkpoint at step 4
    assert start("rename", 1) == -signal.SIGKILL  # while writing the one at step 8
    assert last(tmp_path / "killed")["global_step"] == 4
    train(parse_config(arguments("killed")))
    train(parse_config(arguments("whole")))
    assert_same(last(tmp_path / "killed"), last(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("number", "name", "status", "accumulate"),
    [
        (signal.SIGTERM, "SIGTERM", 143, 1),
        (signal.SIGTERM, "SIGTERM", 143, 2),
        (signal.SIGINT, "Ctrl-C", 130, 1),
    ],
)
def test_a_signal_saves_and_leaves(
    arguments, tmp_path, monkeypatch, capsys, number, name, status, accumulate
):
    original, accumulating = TrainingTask.training_step, ("--training.accumulate", str(accumulate))

    def warned(task, batch, index):
        if task.batch_number == 6 * accumulate - (accumulate - 1):  # the first batch of step 6
            os.kill(os.getpid(), number)
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", warned)
    with pytest.raises(SystemExit) as left:
        train(parse_config(arguments("warned", *accumulating)))
    assert left.value.code == status
    told = capsys.readouterr().out
    assert f"{name}: saved after step 6; --resume auto goes on from there" in told
    assert "step 4: dev loss" in told and "step 6: dev loss" not in told  # no time to validate
    assert last(tmp_path / "warned")["global_step"] == 6
    previous = tmp_path / "warned" / "checkpoints" / "previous.ckpt"
    assert read_checkpoint(previous)["global_step"] == 4
    monkeypatch.undo()
    train(parse_config(arguments("warned", *accumulating)))
    train(parse_config(arguments("whole", *accumulating)))
    assert_same(last(tmp_path / "warned"), last(tmp_path / "whole"))


def test_a_signal_before_a_validation_waits_for_it(arguments, tmp_path, monkeypatch, capsys):
    original = TrainingTask.training_step

    def warned(task, batch, index):
        if task.batch_number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", warned)
    with pytest.raises(SystemExit):
        train(parse_config(arguments("warned")))
    told = capsys.readouterr().out
    assert "step 4: dev loss" in told and "SIGTERM: saved after step 4" in told
    found = last(tmp_path / "warned")
    assert found["global_step"] == 4 and found["dev_wer"] is not None


def test_a_run_killed_in_a_validation_makes_it_again(arguments, tmp_path, monkeypatch):
    def killed(task, *_):
        raise RuntimeError("killed")

    monkeypatch.setattr(SaveInTime, "_agreed", lambda *_: 1)  # a checkpoint is due after every step
    monkeypatch.setattr(TrainingTask, "validation_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(parse_config(arguments("killed")))
    assert last(tmp_path / "killed")["global_step"] == 3
    monkeypatch.undo()
    train(parse_config(arguments("killed")))
    dev = last(tmp_path / "killed")["callbacks"]["Curves"]["dev"]
    assert [step for step, *_ in dev] == [4, 8]


def test_a_run_whose_folder_has_moved_keeps_its_checkpoints(arguments, tmp_path):
    folder = tmp_path / "elsewhere" / "run"
    keep = ("--training.keep", "2")
    train(parse_config(arguments("run", *keep)))
    folder.parent.mkdir()
    (tmp_path / "run").rename(folder)
    train(parse_config(arguments("elsewhere/run", *keep, "--training.steps", "12")))
    names = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert names == ["step-00000008.ckpt", "step-00000012.ckpt"]
    dev = {step: wer for step, _, wer in last(folder)["callbacks"]["Curves"]["dev"]}
    states = last(folder)["callbacks"].values()
    [best] = [state for state in states if str(state.get("best_model_path")).endswith("best.ckpt")]
    assert float(best["best_model_score"]) == pytest.approx(min(dev.values())) and sorted(dev) == [4, 8, 12]
    assert dev[read_checkpoint(folder / "checkpoints" / "best.ckpt")["global_step"]] == min(dev.values())


def test_ctrl_c_twice_ends_at_once(arguments, tmp_path, monkeypatch):
    original, handler = TrainingTask.training_step, signal.getsignal(signal.SIGINT)

    def impatient(task, batch, index):
        if task.batch_number == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", impatient)
    with pytest.raises(KeyboardInterrupt):
        train(parse_config(arguments("run")))
    assert last(tmp_path / "run")["global_step"] == 4
    assert signal.getsignal(signal.SIGINT) == handler


def test_ctrl_c_leaves_the_workers_at_work(arguments, tmp_path, monkeypatch):
    """A terminal sends it to all processes of the group."""
    original = TrainingTask.training_step

    def interrupted(task, batch, index):
        if task.batch_number == 5:
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGINT)
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", interrupted)
    with pytest.raises(SystemExit):
        train(parse_config(arguments("run", "--data.workers", "1", "--training.accumulate", "4")))
    assert last(tmp_path / "run")["global_step"] == 2  # three more batches were read for it


@pytest.mark.parametrize(("minutes", "saved"), [("1e-9", 6), ("30", 4), ("0", 4)])
def test_checkpoints_come_every_so_many_minutes(arguments, tmp_path, monkeypatch, minutes, saved):
    original, option = TrainingTask.training_step, ("--training.checkpoint_minutes", minutes)

    def failing(task, batch, index):
        if task.batch_number == 7:
            raise RuntimeError("killed")
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", failing)
    with pytest.raises(RuntimeError, match="killed"):
        train(parse_config(arguments("run", *option)))
    assert last(tmp_path / "run")["global_step"] == saved
    monkeypatch.undo()
    train(parse_config(arguments("run", *option)))
    train(parse_config(arguments("whole")))
    assert_same(last(tmp_path / "run"), last(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(arguments, tmp_path, damage, capsys):
    train(parse_config(arguments("run")))
    folder, whole = tmp_path / "run" / "checkpoints", last(tmp_path / "run")
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 255
    (folder / "last.ckpt").write_bytes(content if damage == "flipped" else content[:-1000])
    train(parse_config(arguments("run")))
    told = capsys.readouterr().out
    assert "kept as last.ckpt.damaged, going on from previous.ckpt" in told
    assert_same(last(tmp_path / "run"), whole)


def test_a_killed_step_of_several_batches_is_done_again_whole(arguments, tmp_path, monkeypatch):
    original = TrainingTask.training_step

    def failing(task, batch, index):
        if task.batch_number == 12:  # the second batch of step 6
            raise RuntimeError("killed")
        return original(task, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", failing)
    with pytest.raises(RuntimeError, match="killed"):
        train(parse_config(arguments("killed", "--training.accumulate", "2")))
    monkeypatch.undo()
    for folder in ("killed", "whole"):
        train(parse_config(arguments(folder, "--training.accumulate", "2")))
    assert_same(last(tmp_path / "killed"), last(tmp_path / "whole"))


def test_a_disk_that_fails_does_not_damage_a_checkpoint(arguments, tmp_path, monkeypatch):
    train(parse_config(arguments("run")))

    def failing(*_args, **_options):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(UserError, match=r"cannot be read: .*Stale file handle"):
        train(parse_config(arguments("run")))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_two_damaged_checkpoints_are_an_error(arguments, tmp_path):
    train(parse_config(arguments("run")))
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run" / "checkpoints" / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"previous\.ckpt: not a checkpoint, or a damaged one"):
        train(parse_config(arguments("run")))


class TestNonFiniteSteps:
    @pytest.fixture
    def poison(self, monkeypatch):
        """Give the first loss of chosen training batches no number."""
        original, count = CTCHead.loss, []

        def choose(numbers) -> None:
            def loss(log_probs, *rest):
                losses = original(log_probs, *rest)
                if log_probs.requires_grad:  # not in validation
                    count.append(1)
                    if len(count) in numbers:
                        losses = torch.cat((losses[:1] * float("nan"), losses[1:]))
                return losses

            monkeypatch.setattr(CTCHead, "loss", staticmethod(loss))

        return choose

    def test_they_are_skipped_counted_and_reported(self, arguments, tmp_path, poison, capsys):
        poison({3, 5})
        train(parse_config(arguments("run")))
        told = capsys.readouterr()
        records = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [3, 5]
        assert all(len(record["not_finite"]) == 1 for record in records)
        assert records[0]["not_finite"][0] in records[0]["batch"]
        assert f"step 3 skipped: loss of {records[0]['not_finite'][0]} is not finite" in told.out + told.err
        content = last(tmp_path / "run")
        assert content["optimizer_states"][0]["state"][0]["step"] == 6  # of 8
        for part in ("state_dict", "average"):
            assert all(value.isfinite().all() for value in content[part].values())

    def test_too_many_in_a_row_end_the_run_with_advice(self, arguments, tmp_path, poison):
        poison(range(5, 9))
        with pytest.raises(UserError, match=r"4 steps in a row .* lower --training.peak_lr"):
            train(parse_config(arguments("run", "--training.skip_limit", "4")))
        assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 4

import dataclasses
import json

import pytest
import torch

from asr.checkpoints.checkpoint import read_checkpoint
from asr.data.batches import Batch
from asr.data.manifest import read_manifest
from asr.data.tokenizer import train_tokenizer
from asr.errors import UserError
from asr.files import locked
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.config import TrainingConfig, parse_config
from asr.training.run import train
from asr.training.task import TrainingTask, lr_factor, training_loss

TINY = """
attention: mala
encoder: {dim: 16, layers: 1, heads: 2, kernel: 3, dropout: 0.0}
frontend: {mels: 20, frequency_width: 3, time_masks: 1}
training: {steps: 6, seconds: 20, warmup: 2, validate_every: 3, precision: fp32, accelerator: cpu}
"""


@pytest.fixture
def run(corpus, tmp_path):
    """Train with options on the miniature corpus; returns the run's folder."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(*options: str, out: str = "run"):
        arguments = ["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / out)]
        arguments += ["--data.folder", str(corpus), "--data.tokenizer", str(corpus / "tokenizer.model")]
        train(parse_config([*arguments, *options]))
        return tmp_path / out

    return call


def last(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def test_training_leaves_what_decoding_and_resuming_need(run):
    folder = run()
    content = last(folder)
    assert content["global_step"] == 6 and content["audio_seconds"] > 60
    assert content["recipe"]["model"]["attention"] == "mala"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert list((folder / "logs").glob("events.out.tfevents.*"))
    assert parse_config(["--config", str(folder / "config.yaml")]).training.steps == 6
    assert all(v.isfinite().all() for v in content["state_dict"].values() if v.is_floating_point())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resuming_goes_on_with_the_batches_not_seen_yet(run, workers):
    options = ("--data.workers", workers, "--frontend.speeds", "[1.0]", "--training.validate_every", "2")
    whole = last(run(*options, out="whole"))
    run(*options, "--training.steps", "4", out="parts")
    parts = last(run(*options, "--resume", "auto", out="parts"))
    assert parts["global_step"] == whole["global_step"] == 6
    assert parts["audio_seconds"] == pytest.approx(whole["audio_seconds"])
    assert parts["lr_schedulers"][0]["last_epoch"] == whole["lr_schedulers"][0]["last_epoch"]


def test_a_finished_run_is_not_trained_further(run):
    before = last(run())["state_dict"]
    after = last(run("--resume", "auto"))["state_dict"]
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_run_in_the_way_is_refused(run):
    run()
    with pytest.raises(UserError, match="holds a run already; go on with --resume auto"):
        run()


def test_a_checkpoint_of_another_attention_is_refused(run):
    run()
    with pytest.raises(UserError, match="trained with attention mala, but this run asks for softmax"):
        run("--resume", "auto", "--attention", "softmax")


@pytest.mark.parametrize("option", ["seed", "seconds", "peak_lr"])
def test_options_that_a_resumed_run_cannot_change_are_refused(run, option):
    run()
    with pytest.raises(UserError, match=f"--training.{option} 9.*: .*last.ckpt was trained with"):
        run("--resume", "auto", f"--training.{option}", "9")


def test_other_training_data_is_refused_and_the_runs_record_stays(run):
    folder = run()
    before = (folder / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"not the utterances that .*last\.ckpt was trained on"):
        run("--resume", "auto", "--data.max_seconds", "2.0")
    assert (folder / "config.yaml").read_text() == before


def test_last_is_the_last_even_where_dev_gets_worse(run, monkeypatch):
    """best stays behind; last, which a resumed run starts from, does not."""
    rates = iter([50.0, 60.0, 70.0])

    def worse(task):
        task.log("dev_loss", 1.0)
        task.log("dev_wer", next(rates))

    monkeypatch.setattr(TrainingTask, "on_validation_epoch_end", worse)
    folder = run("--training.validate_every", "2")
    assert last(folder)["global_step"] == 6
    assert read_checkpoint(folder / "checkpoints" / "best.ckpt")["global_step"] == 2


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    with (
        locked(tmp_path / "run" / "checkpoints"),
        pytest.raises(UserError, match="another program is at work on it"),
    ):
        run()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_leftovers_of_a_killed_run_are_removed(run, tmp_path):
    leftover = tmp_path / "run" / "checkpoints" / ".last.ckpt.123.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    run()
    assert not leftover.exists()


def test_utterances_left_out_are_listed(run, corpus, tmp_path, capsys):
    folder = run("--data.max_seconds", "1.7", out="short")
    told = capsys.readouterr().out
    listed = [json.loads(line) for line in (folder / "excluded.jsonl").read_text().splitlines()]
    assert listed and f"left out of training: {len(listed)} too long" in told
    assert all(float(item["detail"].split()[0]) >= 1.7 for item in listed)


def test_nothing_left_to_train_on_is_an_error(run):
    with pytest.raises(UserError, match="no utterance can be trained on"):
        run("--data.max_seconds", "0.1")


def test_a_dry_run_projects_and_leaves_nothing(run, tmp_path, capsys):
    folder = run("--dry-run", "--training.steps", "3000")
    told = capsys.readouterr().out
    for part in ("M parameters", "an epoch", "steps: 3000", "GiB at its peak", "x real time", "projected: "):
        assert part in told
    assert not folder.exists()


class TestLoss:
    @pytest.fixture
    def batch(self):
        torch.manual_seed(0)
        waveforms, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
        return Batch(
            ["a", "b"], waveforms, lengths, torch.tensor([[1, 2, 3], [4, 5, 0]]), lengths.new([3, 2]), []
        )

    @staticmethod
    def loss(batch, **options):
        torch.manual_seed(1)
        encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3, dropout=0.0)
        model = Model(ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20)), 12).train()
        torch.manual_seed(2)
        loss, losses = training_loss(model, batch, TrainingConfig(**options))
        assert losses.shape == (2,) and torch.allclose(loss, losses.sum() / 5)
        return loss.item()

    def test_a_mean_over_pieces(self, batch):
        assert self.loss(batch) > 0

    def test_intermediate_ctc_is_a_weighted_mean(self, batch):
        """Linear in its weight, so that halves lie halfway."""
        plain, half, more = (self.loss(batch, intermediate=w) for w in (0.0, 0.2, 0.4))
        assert plain != half and 2 * half == pytest.approx(plain + more, rel=1e-5)

    def test_consistency_comes_on_top_of_the_mean_of_two_views(self, batch):
        little, half, more = (self.loss(batch, consistency=w) for w in (1e-9, 0.2, 0.4))
        assert little < half < more and 2 * half == pytest.approx(little + more, rel=1e-5)


def test_schedules():
    noam = TrainingConfig(warmup=10, steps=100, schedule="noam")
    assert [lr_factor(step, noam) for step in (0, 4, 9, 10, 40)] == pytest.approx([0.1, 0.5, 1, 1, 0.5])
    cosine = dataclasses.replace(noam, schedule="cosine")
    assert [lr_factor(step, cosine) for step in (9, 10, 55, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_the_loss_falls(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run("--training.steps", "200", "--training.validate_every", "200", "--training.peak_lr", "5e-3")
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train_loss")]
    assert losses[-1] < 0.9 * losses[0] < 10


class TestStartingFromAnotherRun:
    def test_its_averaged_weights_are_taken(self, run):
        folder = run()
        first = last(folder)
        path = str(folder / "checkpoints" / "last.ckpt")
        second = last(run("--init", path, "--training.peak_lr", "1e-12", out="b"))
        for name, value in first["average"].items():
            if "running" not in name:
                assert torch.allclose(second["state_dict"][f"model.{name}"], value, atol=1e-6), name

    def test_nothing_else_of_it_is_taken(self, run):
        """Neither its data nor its place in them: the new run begins with its own first batch."""
        path = str(run() / "checkpoints" / "last.ckpt")
        data = ("--data.max_seconds", "2.5")
        fresh = last(run(*data, out="fresh"))
        begun = last(run(*data, "--init", path, out="begun"))
        assert begun["global_step"] == 6
        assert begun["audio_seconds"] == fresh["audio_seconds"]  # of the same batches
        assert begun["data_digest"] == fresh["data_digest"] != read_checkpoint(path)["data_digest"]

    def test_another_tokenizer_is_refused(self, run, corpus, tmp_path):
        run()
        other = tmp_path / "other.model"
        texts = [item.text for item in read_manifest(corpus / "train.jsonl")]
        other.write_bytes(train_tokenizer(texts, 40))
        with pytest.raises(UserError, match="trained with another tokenizer"):
            run(
                "--init", str(tmp_path / "run/checkpoints/last.ckpt"), "--data.tokenizer", str(other), out="b"
            )

    def test_another_shape_is_refused(self, run, tmp_path):
        run()
        with pytest.raises(UserError, match="weights do not fit the configuration"):
            run("--init", str(tmp_path / "run/checkpoints/last.ckpt"), "--encoder.dim", "8", out="b")

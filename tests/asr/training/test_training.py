import dataclasses
import json
import math
import re
from contextlib import nullcontext

import pytest
import torch

import decode
from asr.checkpoints.__main__ import main as asr_checkpoints
from asr.checkpoints.checkpoint import load_model, read_checkpoint, write_checkpoint
from asr.checkpoints.export import export
from asr.data.batches import Batch, TrainingSampler
from asr.data.manifest import read_manifest, write_manifest
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.options import parse
from asr.errors import UserError
from asr.files import locked
from asr.lm import build as lm
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.ctc import CTCHead
from asr.model.frontend import FrontendConfig
from asr.model.long import long_log_probs
from asr.model.recogniser import Model
from asr.training import run as run_module
from asr.training.config import TrainingConfig, parse_config
from asr.training.losses import training_loss
from asr.training.resuming import FIXED, FREE
from asr.training.run import train
from asr.training.task import TrainingTask, lr_factor

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


@pytest.mark.parametrize("blocks", ["0", "1"])
def test_attention_with_the_teachers_own_weights_begins_without_error(run, capsys, blocks):
    softmax = ("--attention", "softmax", "--training.steps", "2")
    teacher = str(run(*softmax) / "checkpoints" / "last.ckpt")
    options = (*softmax, "--init", teacher, "--training.teacher", teacher, "--training.ctc", "0")
    options += ("--training.distil_attention", "1", "--training.distil_start", "nearest")
    run(*options, "--training.distil_blocks", blocks, out="student")
    found = re.search(r"relative error starts at (\S+) and not (\S+)", capsys.readouterr().out)
    assert max(map(float, found.groups())) < 1e-9


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resuming_goes_on_with_the_batches_not_seen_yet(run, workers):
    options = ("--data.workers", workers, "--frontend.speeds", "[1.0]", "--training.validate_every", "2")
    whole = last(run(*options, out="whole"))
    run(*options, "--training.steps", "4", out="parts")
    parts = last(run(*options, "--resume", "auto", out="parts"))
    assert parts["global_step"] == whole["global_step"] == 6
    assert parts["audio_seconds"] == pytest.approx(whole["audio_seconds"])
    assert parts["lr_schedulers"][0]["last_epoch"] == whole["lr_schedulers"][0]["last_epoch"]


def test_joined_utterances_are_trained_on_and_are_other_data(run, capsys):
    single, joined = last(run()), last(run("--data.join", "15", out="joined"))
    # The same audio in fewer and longer utterances: the batches hold less padding, or less audio.
    assert joined["data_digest"] != single["data_digest"] and joined["dev_digest"] == single["dev_digest"]
    count = {int(number) for number in re.findall(r"\((\d+) utterances\)", capsys.readouterr().out)}
    assert len(count) == 2 and min(count) < 0.7 * max(count)
    with pytest.raises(UserError, match=r"or --data\.join"):
        run("--data.join", "20", "--resume", "auto", out="joined")


def test_a_finished_run_is_not_trained_further(run):
    before = last(run())["state_dict"]
    after = last(run("--resume", "auto"))["state_dict"]
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_run_in_the_way_is_refused(run):
    run()
    other = run(out="other") / "checkpoints" / "last.ckpt"
    for options in ((), ("--resume", str(other))):
        with pytest.raises(UserError, match="holds a run already; go on with --resume auto"):
            run(*options)


def test_mechanisms_by_layer_are_trained_and_exported(run, tmp_path, capsys):
    folder = run("--attention", "mala,softmax", "--encoder.layers", "3", "--softmax.unit_query", "true")
    assert "training mala,softmax, " in capsys.readouterr().out
    path = folder / "checkpoints" / "best.ckpt"
    export(path, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "mala,softmax by layer, repeated; mala, positions rotary, lepe 0, " in card
    assert "; softmax, positions relative, lepe 0, gate none, unit_query True, left 128 |" in card
    (first, recipe), (second, same) = load_model(path), load_model(tmp_path / "exported")
    assert recipe.model == same.model and recipe.model.options["softmax"].unit_query
    kinds = [type(block.attention).__name__ for block in second.encoder.blocks]
    assert kinds == ["MagnitudeAwareLinearAttention", "SoftmaxAttention", "MagnitudeAwareLinearAttention"]
    waveform = torch.randn(1, 48_000), torch.tensor([48_000])
    with torch.inference_mode():
        whole = first(*waveform)[0]
        assert torch.equal(whole, second(*waveform)[0])
    assert torch.allclose(
        torch.cat(list(long_log_probs(first, waveform[0][0], chunk=20))), whole[0], atol=1e-4
    )


def test_mechanisms_by_layer_are_decoded_and_asked_for(run, corpus, tmp_path):
    path = run("--attention", "mala,softmax", "--encoder.layers", "2") / "checkpoints" / "last.ckpt"
    arguments = ["--checkpoint", str(path), "--data", str(corpus), "--splits", "test"]
    arguments += ["--out", str(tmp_path / "results"), "--device", "cpu", "--attention"]
    assert decode.main([*arguments, "mala,softmax"]) == 0
    assert json.loads((tmp_path / "results" / "wer.json").read_text())["attention"] == "mala,softmax"
    with pytest.raises(UserError, match="was trained with mala,softmax"):
        decode.main([*arguments, "mala"])


def test_a_checkpoint_of_another_attention_is_refused(run):
    run()
    with pytest.raises(UserError, match="trained with attention mala, but this run asks for softmax"):
        run("--resume", "auto", "--attention", "softmax")


class TestGoingOnWithOtherOptions:
    def test_every_option_is_decided_about(self):
        names = [field.name for field in dataclasses.fields(TrainingConfig)]
        assert sorted((*FIXED, *FREE)) == sorted(names)

    @pytest.fixture
    def refused(self, run):
        """Whether going on with options is refused by a message, and the run's record stays."""
        folder = run()
        before = (folder / "config.yaml").read_text()

        def check(message: str, *options: str):
            with pytest.raises(UserError, match=message) as error:
                run("--resume", "auto", *options)
            assert "last.ckpt and another --out" in str(error.value)
            assert (folder / "config.yaml").read_text() == before

        return check

    def test_what_would_make_it_another_run_is_refused(self, refused):
        # See test_distillation and test_chunked_training for some, and TestHeads for the transducer's weight
        # and what is frozen.
        elsewhere = ("transducer", "variational_noise", "freeze", "taught_modules", "shuffle_minutes")
        elsewhere += ("splice", "chunk_share")
        fixed = [name for name in FIXED if not name.startswith("distil_") and name not in elsewhere]
        others = dict.fromkeys(fixed, "9") | {
            "intermediate": "0.3",
            "average": "0.9",
            "nonspeech": "0.9",
            "schedule": "cosine",
            "optimiser": "muon",
        }
        others |= {"chunks": "[9]"}
        for name, value in others.items():
            option = f"--training.{name}"
            wanted = f"^{option} {re.escape(value)}.*: .*last.ckpt was trained with .*--init"
            refused(wanted, option, value)

    def test_other_data_is_refused(self, refused):
        refused(r"not the utterances that .*last\.ckpt was trained on", "--data.max_seconds", "2.0")
        refused(
            r"--data.dev test: not the utterances that .*last\.ckpt was validated on", "--data.dev", "test"
        )

    def test_fewer_steps_than_were_done_are_refused(self, refused):
        refused(r"^--training.steps 3: .*last.ckpt has done 6 already", "--training.steps", "3")

    def test_another_beginning_is_refused(self, refused):
        refused("^--init other: .*last.ckpt began from random weights", "--init", "other")

    def test_other_steps_are_another_schedule_under_cosine_only(self, run):
        cosine = ("--training.schedule", "cosine", "--resume", "auto")
        run(*cosine)
        with pytest.raises(UserError, match=r"^--training.steps 9: .*trained with 6, and this would"):
            run(*cosine, "--training.steps", "9")

    def test_the_record_says_what_was_run_and_until_when(self, run, capsys):
        def steps_in(name: str) -> int:
            return parse_config(["--config", str(folder / name)]).training.steps

        folder = run()
        first = (folder / "config.yaml").read_text()
        run("--resume", "auto", "--training.validate_every", "2")  # there is no step left to do
        assert (folder / "config.yaml").read_text() == first
        capsys.readouterr()
        run("--resume", "auto", "--training.steps", "9", "--data.workers", "1")
        assert "going on after step 6 with --training.steps 9 (was 6)" in capsys.readouterr().out
        assert (folder / "config.until-6.yaml").read_text() == first
        assert (steps_in("config.until-6.yaml"), steps_in("config.yaml")) == (6, 9)
        assert last(folder)["global_step"] == 9

    def test_checkpoints_of_before_there_was_an_option_or_a_place_go_on(self, run):
        folder = run("--training.steps", "4", "--training.validate_every", "2", out="old")
        path = folder / "checkpoints" / "last.ckpt"
        content = read_checkpoint(path)
        for name in ("place", "dev_digest", "init"):
            del content[name]
        for name in ("intermediate", "nonspeech"):
            del content["training"][name]
        write_checkpoint(content, path)
        with pytest.raises(UserError, match=r"^--training.nonspeech 0.1: .* was trained with 0.0"):
            run("--resume", "auto", "--training.nonspeech", "0.1", out="old")
        run("--resume", "auto", "--training.validate_every", "2", out="old")
        whole = last(run("--training.validate_every", "2", out="whole"))
        old = last(folder)
        assert old["place"] == whole["place"] and old["audio_seconds"] == whole["audio_seconds"]
        assert all(torch.equal(value, old["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_a_late_run_builds_no_earlier_epoch_again(run, monkeypatch):
    options = ("--training.steps", "40", "--training.validate_every", "40", "--resume", "auto")
    epoch, _ = last(run(*options))["place"]
    built, original = [], TrainingSampler.epoch
    monkeypatch.setattr(TrainingSampler, "epoch", lambda self, n: built.append(n) or original(self, n))
    run(*options, "--training.steps", "41", "--training.validate_every", "41")
    assert epoch > 2 and min(built) == epoch


def test_too_little_gpu_memory_is_told_with_advice(run, monkeypatch):
    def full(task, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(TrainingTask, "training_step", full)
    for dry in ((), ("--dry-run",)):
        with pytest.raises(UserError, match=r"^--training.seconds 20: too little GPU memory .*accumulate"):
            run(*dry)


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


def test_the_last_so_many_checkpoints_are_kept_and_averaged(run, tmp_path):
    options = ("--training.validate_every", "1", "--training.keep")
    folder = run("--training.steps", "4", *options, "4") / "checkpoints"
    assert len(list(folder.glob("step-*.ckpt"))) == 4
    run("--resume", "auto", *options, "2")  # fewer from now on
    kept = sorted(folder.glob("step-*.ckpt"))
    assert [path.name for path in kept] == ["step-00000005.ckpt", "step-00000006.ckpt"]
    contents = [read_checkpoint(path) for path in kept]
    assert all(content["dev_wer"] > 0 for content in contents)
    asr_checkpoints(["average", *map(str, kept), "--out", str(tmp_path / "mean"), "--best", "2"])
    found = load_model(tmp_path / "mean")[0].state_dict()["encoder.blocks.0.norm.weight"]
    a, b = (content["average"]["encoder.blocks.0.norm.weight"].double() for content in contents)
    assert torch.equal(found, ((a + b) / 2).float())


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    with (
        locked(tmp_path / "run" / "checkpoints"),
        pytest.raises(UserError, match="another program is at work on it"),
    ):
        run()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_that_another_program_goes_on_with_meanwhile_is_left_to_it(run, monkeypatch):
    options = ("--training.schedule", "noam", "--training.validate_every", "2", "--resume", "auto")
    folder = run("--training.steps", "2", *options)
    original = run_module.load_teacher

    def meanwhile(*arguments):  # after the checkpoint was looked at, before the folder is locked
        monkeypatch.setattr(run_module, "load_teacher", original)
        run("--training.steps", "4", *options)
        return original(*arguments)

    monkeypatch.setattr(run_module, "load_teacher", meanwhile)
    with pytest.raises(UserError, match=r"^--out .*run: another program has just trained there; start again"):
        run("--training.steps", "6", *options)
    assert last(folder)["global_step"] == 4


def test_a_loss_without_a_number_does_not_stay_in_what_is_shown(run, monkeypatch, capsys):
    original = TrainingTask.training_step

    def first_without(task, batch, index):
        loss = original(task, batch, index)
        return loss * math.nan if task.global_step == 0 else loss

    monkeypatch.setattr(TrainingTask, "training_step", first_without)
    run("--training.steps", "12", "--training.skip_limit", "3")
    shown = re.findall(r"^step \d+/12: loss (\S+),", capsys.readouterr().out, re.M)
    assert math.isfinite(float(shown[-1]))


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


class TestHeads:
    """Training with a transducer, alone or beside CTC."""

    SMALL = ("--transducer.hidden", "8", "--transducer.joint", "8")

    @pytest.mark.parametrize("head", ["transducer", "hybrid"])
    def test_a_stopped_run_goes_on_as_the_same_run(self, run, head):
        options = ("--head", head, *self.SMALL, "--training.validate_every", "2")
        options += ("--training.variational_noise", "0.1")
        whole = last(run(*options, out="whole"))
        run(*options, "--training.steps", "4", out="parts")
        parts = last(run(*options, "--resume", "auto", out="parts"))
        assert parts["recipe"]["model"]["head"] == head
        names = {name.split(".")[1] for name in parts["state_dict"]} - {"frontend", "encoder"}
        assert names == {"transducer": {"transducer"}, "hybrid": {"head", "transducer"}}[head]
        assert all(
            torch.equal(value, parts["state_dict"][name]) for name, value in whole["state_dict"].items()
        )

    def test_both_heads_of_a_hybrid_are_validated(self, run, capsys):
        folder = run("--head", "hybrid", *self.SMALL)
        told = capsys.readouterr().out
        assert "training mala with a hybrid head, " in told
        assert re.search(r"dev WER \d+\.\d % \(greedy; by CTC \d+\.\d %\), ", told)
        content = last(folder)
        assert content["training"]["transducer"] == content["training"]["ctc"] == 1
        assert parse_config(["--config", str(folder / "config.yaml")]).model.transducer.hidden == 8

    def test_only_ctc_wants_a_frame_for_every_piece(self, run, corpus, tmp_path):
        """80 ms frames of a short utterance are too few."""
        items = read_manifest(corpus / "train.jsonl")
        fast = dataclasses.replace(items[0], text=" ".join(item.text for item in items[:9]))
        write_manifest(tmp_path / "fast" / "train.jsonl", [fast, *items[1:]])
        write_manifest(tmp_path / "fast" / "dev.jsonl", read_manifest(corpus / "dev.jsonl"))
        data = ("--data.folder", str(tmp_path / "fast"))
        for head, left_out in (("ctc", 1), ("hybrid", 1), ("transducer", 0)):
            folder = run("--head", head, *(self.SMALL if head != "ctc" else ()), *data, out=head)
            assert len((folder / "excluded.jsonl").read_text().splitlines()) == left_out

    def test_another_head_or_weight_is_another_run(self, run):
        options = ("--head", "hybrid", *self.SMALL, "--resume", "auto")
        run(*options)
        with pytest.raises(UserError, match=r"^--training.transducer 9.*: .*last.ckpt was trained with 1.0"):
            run(*options, "--training.transducer", "9")
        with pytest.raises(UserError, match="trained with head hybrid, but this run asks for ctc"):
            run("--resume", "auto")

    def test_a_hybrid_begins_from_a_model_with_ctc_alone(self, run, capsys):
        path = str(run() / "checkpoints" / "last.ckpt")
        run("--init", path, "--head", "hybrid", *self.SMALL, out="b")
        assert re.search(
            r"% of the model taken from .*new: transducer\..*; dropped: nothing", capsys.readouterr().out
        )

    def test_what_is_frozen_stays_and_the_rest_learns(self, run):
        before = run("--training.average", "0")
        path = str(before / "checkpoints" / "last.ckpt")
        frozen = ("--training.freeze", "[encoder,ctc]", "--training.ctc", "0", "--encoder.dropout", "0.5")
        options = ("--init", path, "--head", "hybrid", *self.SMALL, *frozen, "--training.average", "0")
        old, new = last(before)["state_dict"], last(run(*options, out="b"))["state_dict"]
        assert [name for name, value in old.items() if not torch.equal(value, new[name])] == []
        started = last(run(*options, "--training.peak_lr", "1e-12", out="c"))["state_dict"]
        assert all(not torch.equal(new[name], value) for name, value in started.items() if name not in old)

    def test_a_frozen_encoder_has_no_dropout(self, corpus):
        config = parse_config(["--out", "x", "--head", "hybrid"])
        config = dataclasses.replace(
            config, training=dataclasses.replace(config.training, freeze=["encoder"])
        )
        task = TrainingTask(config, Tokenizer.load(corpus / "tokenizer.model"))
        task.train()
        modes = {name: module.training for name, module in task.model.named_modules() if name}
        assert {name.split(".")[0] for name, mode in modes.items() if mode} == {
            "frontend",
            "head",
            "transducer",
        }

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--head", "hybrid"], "random weights would stay so; it wants --init"),
            (["--head", "hybrid", "--resume", "auto"], "random weights would stay so; it wants --init"),
            (["--init", "PATH"], "no loss is left that trains anything"),
            (["--init", "PATH", "--head", "transducer"], "there is no ctc; --head is transducer"),
        ],
    )
    def test_freezing_what_would_leave_nothing_to_learn_is_refused(self, run, options, message):
        path = str(run() / "checkpoints" / "last.ckpt")
        options = [path if option == "PATH" else option for option in options]
        with pytest.raises(UserError, match=rf"^--training.freeze encoder ctc: {message}"):
            run("--training.freeze", "[encoder,ctc]", *options, out="b")

    def test_either_head_decodes(self, run, corpus, tmp_path):
        path = run("--head", "hybrid", *self.SMALL) / "checkpoints" / "last.ckpt"
        arguments = ["--checkpoint", str(path), "--data", str(corpus), "--splits", "test", "--device", "cpu"]
        found = {}
        for head, options in (
            (None, []),
            ("ctc", ["--head", "ctc"]),
            ("transducer", ["--head", "transducer"]),
        ):
            out = tmp_path / str(head)
            assert decode.main([*arguments, "--out", str(out), *options]) == 0
            found[head] = json.loads((out / "wer.json").read_text())
        assert [item["head"] for item in found.values()] == ["transducer", "ctc", "transducer"]
        assert [row["lm"] for row in found[None]["rows"]] == ["none"]
        texts = [
            (tmp_path / name / "test.none.hyp.trn").read_text() for name in ("None", "ctc", "transducer")
        ]
        assert texts[0] == texts[2] != texts[1]
        out = ("--out", str(tmp_path / "x"))
        transducer = ["--checkpoint", str(path), "--head", "transducer"]
        with pytest.raises(UserError, match=r"^--stream -: not with a transducer yet; --head ctc"):
            decode.main([*transducer, "--stream", "-"])
        data = ["--data", str(corpus), "--splits", "test", *out]
        with pytest.raises(UserError, match=r"^lm.bin: no such language model"):
            decode.main([*transducer, *data, "--lm", "lm.bin"])

    def test_a_transducer_searches_with_an_lm(self, run, corpus, tmp_path, capsys):
        path = str(run("--head", "hybrid", *self.SMALL) / "checkpoints" / "last.ckpt")
        lm.estimate([corpus / "lm.txt"], 2, tmp_path / "lm.bin", estimator="own")
        arguments = ["--checkpoint", path, "--head", "transducer", "--device", "cpu"]
        arguments += ["--lm", str(tmp_path / "lm.bin"), "--beam", "2", "--expansions", "1"]
        data = ["--data", str(corpus), "--splits", "test", "--out", str(tmp_path / "results")]
        assert decode.main([*arguments, *data, "--tune-utterances", "1", "--ctc-weight", "0.3"]) == 0
        assert "tuned on dev: LM weight" in capsys.readouterr().out
        found = json.loads((tmp_path / "results" / "wer.json").read_text())
        assert [(row["split"], row["lm"]) for row in found["rows"]] == [("test", "none"), ("test", "lm")]
        assert (found["head"], found["ctc_weight"], found["expansions"]) == ("transducer", 0.3, 1)
        assert found["tuned_on"] == ["dev"] and found["tune_utterances"] == 1
        assert any(point[3] for point in found["tuning"])  # ILM weights among them

        audio = sorted(str(item) for item in corpus.glob("audio/**/*.wav"))[:2]
        weights = ["--lm-weight", "0.5", "--word-score", "0", "--unknown-penalty", "2", "--ilm-weight", "0.1"]
        assert decode.main([*arguments, *weights, "--format", "json", "--audio", *audio]) == 0
        for line in map(json.loads, capsys.readouterr().out.splitlines()):
            assert " ".join(word["text"] for word in line["words"]) == line["text"]
            assert all(0 <= word["start"] < word["end"] <= line["duration"] for word in line["words"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--ilm-weight", "1"], "--ilm-weight wants --lm-weight"),
            (["--expansions", "0"], "--expansions 0: must lie between 1 and 20"),
            (["--ctc-weight", "99"], "--ctc-weight 99: must lie between -20 and 20"),
            (["--tune-utterances", "-1"], "--tune-utterances -1: must be positive"),
        ],
    )
    def test_options_of_the_search_that_cannot_be_are_refused(self, options, message):
        data = ["--data", "d", "--splits", "test", "--out", "o", "--lm", "lm.bin"]
        with pytest.raises(UserError, match=f"^{message}"):
            parse(["--checkpoint", "x", *data, *options], "")

    def test_a_head_that_is_not_there_is_refused(self, run, corpus, tmp_path):
        path = run() / "checkpoints" / "last.ckpt"
        arguments = ["--checkpoint", str(path), "--data", str(corpus), "--splits", "test", "--device", "cpu"]
        with pytest.raises(UserError, match=r"^--head transducer: the model has none; its head is ctc"):
            decode.main([*arguments, "--out", str(tmp_path / "x"), "--head", "transducer"])

    def test_a_transducer_cannot_teach_posteriors(self, run):
        path = run("--head", "transducer", *self.SMALL) / "checkpoints" / "last.ckpt"
        teacher = ("--training.teacher", str(path), "--training.distil_posteriors", "1")
        with pytest.raises(UserError, match=r"^--training.teacher .*: a transducer without a CTC head"):
            run(*teacher, out="b")
        with pytest.raises(UserError, match=r"^--training.distil_posteriors 1.0: wants a CTC head"):
            run("--head", "transducer", *teacher, out="b")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--transducer.hidden", "8"],
                "--transducer.hidden 8: an option of a transducer, but --head is ctc",
            ),
            (["--training.variational_noise", "0.1"], "--training.variational_noise 0.1: wants a transducer"),
            (["--training.transducer", "2"], "--training.transducer 2: wants such a head, but --head is ctc"),
            (
                ["--head", "transducer", "--training.ctc", "1"],
                "--training.ctc 1: wants such a head, but --head is",
            ),
            (["--head", "hybrid", "--training.ctc", "0"], "--training.ctc 0: nothing would train that head"),
            (
                ["--head", "hybrid", "--training.transducer", "0"],
                "--training.transducer 0: nothing would train",
            ),
            (
                ["--head", "transducer", "--training.transducer", "0"],
                "--training.transducer 0: nothing is left",
            ),
            (
                ["--head", "transducer", "--training.intermediate", "0.3"],
                "--training.intermediate 0.3: wants",
            ),
            (["--head", "hybrid", "--transducer.hidden", "0"], "--transducer.hidden 0: out of range"),
            (["--head", "both"], "Expected a .*ctc.*transducer.*hybrid"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            parse_config(["--out", "x", *options])


class TestLoss:
    @pytest.fixture
    def batch(self):
        torch.manual_seed(0)
        waveforms, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
        return Batch(
            ["a", "b"], waveforms, lengths, torch.tensor([[1, 2, 3], [4, 5, 0]]), lengths.new([3, 2]), []
        )

    @staticmethod
    def loss(batch, head="ctc", **options):
        torch.manual_seed(1)
        encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3, dropout=0.0)
        config = ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20), head=head)
        model = Model(config, 12).train()
        torch.manual_seed(2)
        options = {"transducer": None if head == "ctc" else 1.0} | options
        loss, losses, _ = training_loss(model, batch, TrainingConfig(**options))
        assert losses.shape == (2,) and torch.allclose(loss, losses.sum() / 5)
        return loss.item()

    @pytest.mark.parametrize("options", [{}, {"intermediate": 0.3}, {"consistency": 0.2}])
    @pytest.mark.parametrize("speeds", [(1.0,), (0.9,), (1.1,)])
    def test_nothing_is_fetched_from_the_device(self, batch, options, speeds, monkeypatch):
        """A meta tensor has no values: whatever reads one raises. (It has no autocast and no CTC, either.)"""

        def ctc(log_probs, lengths, targets, target_lengths):
            assert lengths.is_cpu and target_lengths.is_cpu and targets.is_meta
            return log_probs.sum((1, 2))

        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        monkeypatch.setattr(CTCHead, "loss", staticmethod(ctc))
        frontend = FrontendConfig(mels=20, speeds=speeds)
        encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3)
        config = ModelConfig("mala", encoder=encoder, frontend=frontend, head="hybrid")
        model, options = Model(config, 12).train().to("meta"), {"transducer": 1.0} | options
        moved = batch.to("meta")
        assert moved.waveforms.is_meta and moved.targets.is_meta and not moved.lengths.is_meta
        loss, losses, _ = training_loss(model, moved, TrainingConfig(**options))
        loss.backward()
        assert losses.shape == (2,) and losses.is_meta

    @pytest.mark.parametrize("options", [{}, {"intermediate": 0.3}, {"consistency": 0.2}])
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_a_gpu_is_not_waited_for(self, batch, options):
        encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=3)
        config = ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20), head="hybrid")
        model = Model(config, 12)
        model, config = model.train().cuda(), TrainingConfig(transducer=1.0, **options)
        training_loss(model, batch.to("cuda"), config)[0].backward()  # what is made once may wait
        moved = batch.to("cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            training_loss(model, moved, config)[0].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_a_mean_over_pieces(self, batch):
        assert self.loss(batch) > 0

    def test_an_empty_transcript_adds_its_loss_and_no_piece(self, batch):
        silence = torch.zeros(1, 16_000)
        more = batch._replace(
            ids=["a", "b", "c"],
            waveforms=torch.cat((batch.waveforms, silence)),
            lengths=torch.cat((batch.lengths, torch.tensor([16_000]))),
            targets=torch.cat((batch.targets, torch.zeros(1, 3, dtype=torch.long))),
            target_lengths=torch.cat((batch.target_lengths, torch.tensor([0]))),
        )
        torch.manual_seed(1)
        encoder = EncoderConfig(dim=16, layers=1, heads=2, kernel=3, dropout=0.0)
        model = Model(ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20)), 12).train()
        loss, losses, _ = training_loss(model, more, TrainingConfig())
        assert torch.allclose(loss, losses.sum() / 5) and losses[2] > 1
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_intermediate_ctc_is_a_weighted_mean(self, batch):
        """Linear in its weight, so that halves lie halfway."""
        plain, half, more = (self.loss(batch, intermediate=w) for w in (0.0, 0.2, 0.4))
        assert plain != half and 2 * half == pytest.approx(plain + more, rel=1e-5)

    def test_a_hybrid_adds_both_losses_with_their_weights(self, batch):
        """Each is linear in its weight."""
        ctc, transducer, both = (
            self.loss(batch, "hybrid", ctc=a, transducer=b) for a, b in ((1, 0), (0, 1), (0.3, 2))
        )
        assert ctc != transducer and both == pytest.approx(0.3 * ctc + 2 * transducer, rel=1e-5)

    def test_a_transducers_consistent_views_are_averaged(self, batch):
        little = self.loss(batch, "hybrid", ctc=1e-9, consistency=1e-9)
        assert little == pytest.approx(self.loss(batch, "hybrid", ctc=1e-9), rel=0.2)

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

    folder = run("--training.steps", "80", "--training.validate_every", "80", "--training.peak_lr", "5e-3")
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

    def test_another_tokenizer_keeps_the_encoder(self, run, corpus, tmp_path, capsys):
        first = run() / "checkpoints" / "last.ckpt"
        other = tmp_path / "other.model"
        texts = [item.text for item in read_manifest(corpus / "train.jsonl")]
        other.write_bytes(train_tokenizer(texts, 40))
        given = ("--data.tokenizer", str(other), "--init", str(first), "--training.freeze", "[encoder]")
        before, after = (last(folder)["average"] for folder in (first.parents[1], run(*given, out="b")))
        said = capsys.readouterr().out
        assert f"{first} has another tokenizer: it knows " in said
        assert len(after["head.project.weight"]) == Tokenizer.load(other).pieces + 1
        encoder = [name for name in before if name.startswith("encoder.")]
        assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)

    def test_another_shape_is_refused(self, run, tmp_path):
        run()
        with pytest.raises(UserError, match="weights do not fit the configuration"):
            run("--init", str(tmp_path / "run/checkpoints/last.ckpt"), "--encoder.dim", "8", out="b")

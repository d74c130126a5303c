import math
from collections import defaultdict
from dataclasses import asdict, replace
from typing import ClassVar

import pytest
import torch

from asr.checkpoints.checkpoint import load_model, read_checkpoint
from asr.data.batches import Batch
from asr.data.manifest import read_manifest, write_manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig, SubsamplingConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.config import APART, TrainingConfig, parse_config
from asr.training.distances import distance, divergence, stream_error
from asr.training.distillation import Teacher, load_teacher, matched_depths, modules_to_match
from asr.training.losses import training_loss
from asr.training.run import train
from asr.training.splicing import splice
from asr.training.task import TrainingTask, leave_alone
from asr.training.unit_streams import unit_streams

ENCODER = EncoderConfig(dim=16, layers=2, heads=2, kernel=3, dropout=0.0)
PLAIN = FrontendConfig(mels=20, speeds=(1.0,), time_masks=0, frequency_masks=0)
ALONE = {"ctc": "0", "teacher": "x"}
WEIGHTS = ("distil_posteriors", "distil_encoder", "distil_blocks", "distil_attention")


def build(attention: str, seed: int, frontend: FrontendConfig = PLAIN, **sizes) -> Model:
    torch.manual_seed(seed)
    model = Model(ModelConfig(attention, encoder=replace(ENCODER, **sizes), frontend=frontend), 12).double()
    for buffer in model.encoder.buffers():
        buffer.uniform_(0.5, 2)
    return model


def make_batch(rows=slice(0, 3), padding: int = 0) -> Batch:
    torch.manual_seed(0)
    lengths = torch.tensor([16_000, 9_000, 12_345])[rows]
    waveforms = torch.randn(3, 16_000, dtype=torch.float64)[rows]
    waveforms = torch.nn.functional.pad(waveforms[:, : max(lengths)], (0, padding), value=7.0)
    targets = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 6, 7]])[rows]
    ids = list("abc")[rows]
    return Batch(ids, waveforms, lengths, targets, torch.tensor([3, 2, 3])[rows], ids)


def losses(student: Model, teacher: Model, batch: Batch, same: bool = True, **options):
    config = TrainingConfig(teacher="x", **{"ctc": 0.0} | options)
    torch.manual_seed(1)
    depths = matched_depths(len(student.encoder.blocks), len(teacher.encoder.blocks))
    taught_by = Teacher(teacher, same, modules_to_match(teacher, config), depths)
    return training_loss(student, batch, config, taught_by)


def frames_of(model: Model, lengths) -> list[int]:
    return [model.framing.encoded(int(n)) for n in lengths]


class TestReferences:
    """Each loss by its formula, utterance by utterance and frame by frame, in float64."""

    @pytest.fixture
    def pair(self):
        # In evaluation mode batch norm does as it does for an utterance alone.
        return build("mala", 1).eval(), build("softmax", 2).eval()

    def test_posteriors(self, pair):
        student, teacher = pair
        batch, wanted, frames = make_batch(), [], 0
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            alone = waveform[None, :n], torch.tensor([n])
            (q, _), (p, _) = student(*alone), teacher(*alone)
            pairs = zip(p[0].flatten().tolist(), q[0].flatten().tolist(), strict=True)
            wanted.append(sum(math.exp(a) * (a - b) for a, b in pairs))
            frames += p.shape[1]
        found = losses(student, teacher, batch, distil_posteriors=0.7)
        assert found.utterances.tolist() == pytest.approx([0.7 * x for x in wanted], rel=1e-9)
        assert found.total.item() == pytest.approx(0.7 * sum(wanted) / frames, rel=1e-9)
        assert found.parts["posteriors"].item() == pytest.approx(sum(wanted) / frames, rel=1e-9)

    def test_encoder(self, pair):
        student, teacher = pair
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features = student.frontend(waveform[None, :n], torch.tensor([n]))
            x, y = (model.encoder(*features)[0][0] for model in pair)
            rows = zip(x.tolist(), y.tolist(), strict=True)
            wanted.append(sum(sum((a - b) ** 2 for a, b in zip(*row, strict=True)) / 16 for row in rows))
        found = losses(student, teacher, batch, distil_encoder=2.0)
        assert found.utterances.tolist() == pytest.approx([2 * x for x in wanted], rel=1e-9)

    def test_blocks(self, pair):
        student, teacher = pair
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features = student.frontend(waveform[None, :n], torch.tensor([n]))
            streams = [[x[0] for x in model.encoder.residual_stream(*features)] for model in pair]
            error = 0.0
            for x, y in zip(*streams, strict=True):
                line = torch.linalg.lstsq(x.reshape(-1, 1), y.reshape(-1, 1))  # the best scale
                error += ((line.solution * x - y).norm() / (y - y.mean(0)).norm()).item() ** 2 / 3
            wanted.append(error * len(x))
        found = losses(student, teacher, batch, distil_blocks=0.6)
        assert found.utterances.tolist() == pytest.approx([0.6 * x for x in wanted], rel=1e-9)

    def test_blocks_of_a_student_with_fewer(self, pair):
        student, teacher = pair[0], build("softmax", 2, layers=4).eval()
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features = student.frontend(waveform[None, :n], torch.tensor([n]))
            ours, theirs = (list(m.encoder.residual_stream(*features)) for m in (student, teacher))
            valid = torch.ones(ours[0].shape[:2], dtype=torch.bool)
            errors = [stream_error(ours[i], theirs[2 * i], valid).item() for i in range(3)]
            wanted.append(sum(errors) / 3 * len(ours[0][0]))
        found = losses(student, teacher, batch, distil_blocks=1.0)
        assert found.utterances.tolist() == pytest.approx(wanted, rel=1e-9)

    def test_stages(self, pair):
        """Two blocks in the place of four, each on the teacher's frames before it."""
        student, teacher = pair[0], build("softmax", 2, layers=4).eval()
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features = student.frontend(waveform[None, :n], torch.tensor([n]))
            y = [x[0] for x in teacher.encoder.residual_stream(*features)]
            valid = torch.ones(1, len(y[0]), dtype=torch.bool)
            first, _ = student.encoder.subsampling(*features)
            found = [first[0]] + [
                block(y[2 * i][None], valid)[0] for i, block in enumerate(student.encoder.blocks)
            ]
            error = sum(
                ((x - z).norm() / (z - z.mean(0)).norm()).item() ** 2
                for x, z in zip(found, (y[0], y[2], y[4]), strict=True)
            )
            p, q = teacher.head(y[4]), student.head(y[4])
            wanted.append((error * len(y[0]) + (p.exp() * (p - q)).sum().item()) / 4)
        found = losses(student, teacher, batch, distil_stages=0.6)
        assert found.utterances.tolist() == pytest.approx([0.6 * x for x in wanted], rel=1e-9)

    def test_blocks_may_have_any_scale(self, pair):
        found = losses(*pair, make_batch(), distil_blocks=1.0).total
        unit_streams(pair[1], *pair[1].frontend(make_batch().waveforms, make_batch().lengths))
        assert losses(*pair, make_batch(), distil_blocks=1.0).total.item() == pytest.approx(
            found.item(), rel=1e-3
        )

    def test_attention(self, pair):
        student, teacher = pair
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features, lengths = teacher.frontend(waveform[None, :n], torch.tensor([n]))
            x, _ = teacher.encoder.subsampling(features, lengths)
            valid = torch.ones(x.shape[:2], dtype=torch.bool)
            error = 0.0
            for ours, theirs in zip(student.encoder.blocks, teacher.encoder.blocks, strict=True):
                inner = theirs.before_attention(x)
                heard = theirs.attention_norm(inner)
                y, z = theirs.attention(heard, valid), ours.attention(heard, valid)
                error += ((z - y).norm() / y.norm()).item() ** 2 / 2
                x = theirs.after_attention(inner + y, valid)
            wanted.append(error * x.shape[1])
        found = losses(student, teacher, batch, distil_attention=1.0)
        assert found.utterances.tolist() == pytest.approx(wanted, rel=1e-9)
        assert found.total.item() == pytest.approx(
            sum(wanted) / sum(frames_of(student, batch.lengths)), rel=1e-9
        )

    def test_modules(self, pair):
        student, teacher = pair
        batch, wanted = make_batch(), []
        for waveform, n in zip(batch.waveforms, batch.lengths, strict=True):
            features = student.frontend(waveform[None, :n], torch.tensor([n]))
            x = teacher.encoder.subsampling(*features)[0]
            pairs = [(student.encoder.subsampling(*features)[0], x)]
            valid = torch.ones(x.shape[:2], dtype=torch.bool)
            for ours, theirs in zip(student.encoder.blocks, teacher.encoder.blocks, strict=True):
                pairs.append((ours.feed_forward1(x), theirs.feed_forward1(x)))
                x = x + 0.5 * pairs[-1][1]
                heard = theirs.attention_norm(x)
                pairs.append((ours.attention_norm(x), heard))
                pairs.append((ours.attention(heard, valid), theirs.attention(heard, valid)))
                x = x + pairs[-1][1]
                pairs.append((ours.convolution(x, valid), theirs.convolution(x, valid)))
                x = x + pairs[-1][1]
                pairs.append((ours.feed_forward2(x), theirs.feed_forward2(x)))
                x = x + 0.5 * pairs[-1][1]
                pairs.append((ours.norm(x), theirs.norm(x)))
                x = pairs[-1][1]
            assert len(pairs) == 13
            q, p = student.head(x), teacher.head(x)
            error = (p.exp() * (p - q)).sum().item() / valid.shape[1]
            error += sum(((y - z).norm() / (z - z.mean(1)).norm()).item() ** 2 for y, z in pairs)
            wanted.append(error / 14 * valid.shape[1])
        found = losses(student, teacher, batch, distil_modules=0.5)
        assert found.utterances.tolist() == pytest.approx([0.5 * x for x in wanted], rel=1e-9)

    def test_the_sum_of_all(self, pair):
        batch = make_batch()
        each = [losses(*pair, batch, **{name: 0.3}).total for name in WEIGHTS]
        ctc = losses(*pair, batch, ctc=0.5, distil_attention=1e-12).total
        found = losses(*pair, batch, ctc=0.5, **dict.fromkeys(WEIGHTS, 0.3)).total
        assert found.item() == pytest.approx(sum(each).item() + ctc.item(), rel=1e-8)

    def test_nothing_is_left_to_learn_from_oneself(self):
        student, teacher = build("mala", 1).eval(), build("mala", 1).eval()
        for options in (dict.fromkeys(WEIGHTS, 1.0), *({name: 1.0} for name in APART)):
            found = losses(student, teacher, make_batch(), **options)
            assert abs(found.total.item()) < 1e-12


@pytest.mark.parametrize("weight", [*WEIGHTS, *APART])
@pytest.mark.parametrize("attention", ["mala", "softmax", "mala,softmax"])
def test_padding_and_batch_mates_change_nothing(weight, attention):
    student, teacher = build(attention, 1).eval(), build("softmax", 2)
    together = losses(student, teacher, make_batch(padding=5_000), **{weight: 1.0}).utterances
    for row in range(3):
        alone = losses(student, teacher, make_batch(slice(row, row + 1)), **{weight: 1.0}).utterances
        assert torch.allclose(together[row], alone[0], rtol=1e-9)


def test_padding_of_posteriors_and_frames_is_left_out():
    valid = torch.tensor([[True, True, False]])
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 3, 5, dtype=torch.float64).log_softmax(-1)
    for loss in (divergence, distance):
        changed = b.clone()
        changed[:, 2] = -3.0
        assert loss(a, b, valid) == loss(a, changed, valid)


@pytest.mark.parametrize(
    "options",
    [{name: 1.0} for name in (*WEIGHTS, *APART)] + [dict.fromkeys(WEIGHTS, 1.0)],
    ids=str,
)
def test_gradients_reach_the_student_alone(options):
    student, teacher = build("mala", 1).train(), build("softmax", 2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    leave_alone(student, TrainingConfig(teacher="x", ctc=0.0, **options))
    losses(student, teacher, make_batch(), **options).total.backward()
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    learnt = {name for name, p in student.named_parameters() if p.requires_grad}
    # DDP waits for the gradient of each that asks for one.
    assert learnt == {name for name, p in student.named_parameters() if p.grad is not None}
    attention = {name for name in learnt if ".attention." in name}
    assert len(attention) == 16
    if list(options) == ["distil_attention"]:
        assert learnt == attention
    else:
        assert any("feed_forward" in name for name in learnt)


def test_a_transducer_that_no_loss_reaches_is_left_alone():
    config = ModelConfig("mala", head="hybrid", encoder=EncoderConfig(dim=16, layers=2, heads=2, kernel=3))
    student = Model(config, 12)
    leave_alone(student, TrainingConfig(teacher="x", ctc=0.0, transducer=0.0, distil_stages=1.0))
    assert not any(p.requires_grad for p in student.transducer.parameters())


@pytest.mark.parametrize("weight", ["distil_attention", *APART])
def test_layers_side_by_side_leave_the_students_own_forward_out(monkeypatch, weight):
    student, teacher = build("mala", 1).train(), build("softmax", 2)
    monkeypatch.setattr(student.encoder, "residual_stream", None)
    assert losses(student, teacher, make_batch(), **{weight: 1.0}).total > 0


class TestWhatTheTeacherHears:
    MASKED = replace(PLAIN, time_masks=3, time_width=0.3, frequency_masks=2, frequency_width=5)

    def heard(self, monkeypatch, frontend, same=True, teachers=PLAIN, **options):
        """Features of the student and of the teacher."""
        student, teacher, found = build("mala", 1, frontend).train(), build("softmax", 2, teachers), []
        for model in (student, teacher):
            original = model.encoder.residual_stream
            monkeypatch.setattr(
                model.encoder,
                "residual_stream",
                lambda features, *rest, original=original: (
                    found.append(features) or original(features, *rest)
                ),
            )
        losses(student, teacher, make_batch(), same, distil_posteriors=1.0, **options)
        return found

    def test_the_same_speed(self, monkeypatch):
        ours, theirs = self.heard(monkeypatch, replace(PLAIN, speeds=(0.9,)))
        plain, _ = self.heard(monkeypatch, PLAIN)
        assert torch.equal(ours, theirs) and ours.shape[1] > plain.shape[1]

    def test_no_masks(self, monkeypatch):
        ours, theirs = self.heard(monkeypatch, self.MASKED)
        masked = ours == 0
        assert masked.any() and torch.equal(ours[~masked], theirs[~masked]) and (theirs[0] != 0).all()

    def test_the_same_masks(self, monkeypatch):
        ours, theirs = self.heard(monkeypatch, self.MASKED, distil_masks="both")
        assert torch.equal(ours, theirs) and (ours[0] == 0).any()

    @pytest.mark.parametrize("masks", ["student", "both"])
    def test_two_views(self, monkeypatch, masks):
        options = {"ctc": 1.0, "consistency": 0.2, "distil_masks": masks}
        ours, theirs = self.heard(monkeypatch, self.MASKED, **options)
        assert len(ours) == 6 and len(theirs) == (3 if masks == "student" else 6)

    def test_its_own_features(self, monkeypatch):
        nemo = FrontendConfig("nemo", mels=24, speeds=(1.0,))
        ours, theirs = self.heard(monkeypatch, self.MASKED, same=False, teachers=nemo)
        assert ours.shape == (3, 97, 20) and theirs.shape == (3, 100, 24)


def test_views_of_an_unmasked_batch_are_learnt_from_as_one():
    student, teacher = build("mala", 1).eval(), build("softmax", 2)
    weights = dict.fromkeys(WEIGHTS, 1.0)
    one, two = (losses(student, teacher, make_batch(), **weights) for _ in range(2))
    assert torch.equal(one.utterances, two.utterances)
    student.train()
    for block in student.encoder.blocks:
        block.convolution.batch_norm.eval()
    both = losses(student, teacher, make_batch(), ctc=1e-12, consistency=1e-12, **weights)
    assert torch.allclose(one.utterances, both.utterances, rtol=1e-6)


def test_pieces_of_other_utterances_are_heard_by_both_and_no_transcript_is_read():
    student, teacher = build("mala", 1).eval(), build("softmax", 2)
    found = losses(student, teacher, make_batch(), ctc=0.5, distil_encoder=0.3, splice=1.0)
    torch.manual_seed(1)
    batch = make_batch()
    torch.manual_seed(1)
    torch.rand(())  # which says whether
    waveforms, lengths = splice(batch.waveforms, batch.lengths)
    alone = untranscribed(batch._replace(waveforms=waveforms, lengths=lengths), 0, 1, 2)
    said = losses(student, teacher, alone, ctc=0.5, distil_encoder=0.3)
    assert found.parts["ctc"] == 0 and torch.allclose(found.total, said.total, rtol=1e-9)
    plain = losses(student, teacher, make_batch(), ctc=0.5, distil_encoder=0.3)
    assert plain.parts["ctc"] > 0 and not torch.allclose(found.total, plain.total, rtol=1e-3)


def test_a_share_of_batches_is_in_pieces():
    student, teacher = build("mala", 1).eval(), build("softmax", 2)
    weights = {"ctc": 1.0, "distil_encoder": 1.0}
    # What is drawn with the seed of ``losses`` is 0.7576.
    assert losses(student, teacher, make_batch(), splice=0.7, **weights).parts["ctc"] > 0
    assert losses(student, teacher, make_batch(), splice=0.8, **weights).parts["ctc"] == 0


class TestWithoutATranscript:
    """Utterances of which only the teacher says something, beside others."""

    DISTIL: ClassVar = dict.fromkeys(WEIGHTS, 0.3)

    def gradients(self, student, teacher, batch, **options) -> dict[str, torch.Tensor]:
        student.zero_grad()
        losses(student, teacher, batch, **options).total.backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in student.named_parameters()
        }

    @pytest.mark.parametrize("extra", [{}, {"intermediate": 0.3}], ids=str)
    def test_gradients_of_a_mixed_batch_are_the_sum_of_what_each_part_gives(self, extra):
        student, teacher = build("mala", 1).eval(), build("softmax", 2)
        transcribed, mixed = make_batch(slice(0, 3, 2)), untranscribed(make_batch(), 1)
        ctc = self.gradients(student, teacher, transcribed, ctc=0.5, **extra)
        said = self.gradients(student, teacher, make_batch(), **self.DISTIL)
        found = self.gradients(student, teacher, mixed, ctc=0.5, **extra, **self.DISTIL)
        for name, gradient in found.items():
            assert torch.allclose(gradient, ctc[name] + said[name], rtol=1e-9, atol=1e-13), name

    def test_a_batch_of_none_transcribed_is_what_the_teacher_says_and_reaches_every_weight(self):
        student, teacher = build("mala", 1).eval(), build("softmax", 2)
        batch = untranscribed(make_batch(), 0, 1, 2)
        found = losses(student, teacher, batch, ctc=0.5, distil_encoder=0.3)
        assert found.parts["ctc"] == 0
        found.total.backward()
        assert all(p.grad is not None for p in student.parameters())  # DDP waits for each
        said = self.gradients(build("mala", 1).eval(), teacher, make_batch(), distil_encoder=0.3)
        for name, p in student.named_parameters():
            assert torch.allclose(p.grad, said[name], rtol=1e-9, atol=1e-13), name

    def test_an_empty_transcript_is_one(self):
        """It says that nothing is said: CTC's path of blanks."""
        student, teacher = build("mala", 1).eval(), build("softmax", 2)
        silent = untranscribed(make_batch(), 1)._replace(transcribed=None)
        found = losses(student, teacher, silent, ctc=1.0, distil_posteriors=1e-300).utterances
        log_probs, lengths = student(silent.waveforms, silent.lengths)
        assert found[1].item() == pytest.approx(-log_probs[1, : lengths[1], 0].sum().item(), rel=1e-9)

    def test_there_is_no_consistency_of_views_either(self):
        masked = replace(PLAIN, time_masks=3, time_width=0.3)
        student, teacher = build("mala", 1, masked).train(), build("softmax", 2)
        for block in student.encoder.blocks:
            block.convolution.batch_norm.eval()
        options = {"consistency": 0.2, "ctc": 1.0, **self.DISTIL}
        everyone = losses(student, teacher, make_batch(), **options).utterances
        found = losses(student, teacher, untranscribed(make_batch(), 1), **options).utterances
        said = losses(
            student, teacher, make_batch(), **options | {"consistency": 1e-300, "ctc": 0.0}
        ).utterances
        assert torch.allclose(found, torch.stack([everyone[0], said[1], everyone[2]]), rtol=1e-9)
        assert found[1] < everyone[1]


def untranscribed(batch: Batch, *rows: int) -> Batch:
    """The batch with some transcripts taken away, as ``collate`` makes it."""
    lengths, there = batch.target_lengths.clone(), torch.ones(len(batch.ids), dtype=torch.bool)
    lengths[list(rows)], there[list(rows)] = 0, False
    return batch._replace(targets=batch.targets[:, : max(lengths)], target_lengths=lengths, transcribed=there)


@pytest.fixture(scope="module")
def teacher_run(corpus, tmp_path_factory):
    """A softmax model trained for a while."""
    out = tmp_path_factory.mktemp("teacher")
    run_with(corpus, out, "--attention", "softmax", *SIZE, "--training.steps", "30")
    return out / "checkpoints" / "last.ckpt"


SIZE = ["--encoder.dim", "16", "--encoder.layers", "2", "--encoder.heads", "2", "--encoder.kernel", "3"]
SIZE += ["--encoder.dropout", "0", "--frontend.mels", "20", "--frontend.frequency_masks", "0"]
SIZE += ["--frontend.time_masks", "0"]
FAST = ["--training.seconds", "20", "--training.warmup", "2", "--training.accelerator", "cpu"]
FAST += ["--training.precision", "fp32", "--training.peak_lr", "5e-3", "--training.average", "0.5"]


def run_with(corpus, out, *options: str, data=None):
    arguments = ["--out", str(out), "--data.folder", str(data or corpus), *FAST]
    arguments += ["--data.tokenizer", str(corpus / "tokenizer.model")]
    train(parse_config([*arguments, *options]))
    return read_checkpoint(out / "checkpoints" / "last.ckpt")


@pytest.fixture
def logged(monkeypatch):
    """What runs log from now on, by name."""
    found, original = defaultdict(list), TrainingTask.log

    def log(task, name, value, **options):
        found[name].append(float(torch.as_tensor(value).detach()))
        return original(task, name, value, **options)

    monkeypatch.setattr(TrainingTask, "log", log)
    return found


def test_softmax_becomes_mala_without_transcripts(teacher_run, corpus, tmp_path, logged, capsys):
    """Attention by attention first, then by the posteriors."""
    bare = tmp_path / "bare"
    for split in ("train", "dev"):
        items = read_manifest(corpus / f"{split}.jsonl")
        texts = [replace(item, text="") if split == "train" else item for item in items]
        write_manifest(bare / f"{split}.jsonl", texts)
    common = ["--training.teacher", str(teacher_run), "--attention", "mala", "--training.ctc", "0"]
    first = [
        "--init",
        str(teacher_run),
        *common,
        "--training.distil_attention",
        "1",
        "--training.steps",
        "40",
    ]
    one = run_with(corpus, tmp_path / "one", *first, data=bare)
    assert f"teacher: {teacher_run}, softmax, 0.0" in capsys.readouterr().out
    assert not (tmp_path / "one" / "excluded.jsonl").read_text()
    weights = {k.removeprefix("model."): v for k, v in one["state_dict"].items()}
    taught = load_model(teacher_run)[0].state_dict()
    changed = {
        name for name in weights.keys() & taught.keys() if not torch.equal(weights[name], taught[name])
    }
    assert len(changed) == 16 and all(".attention." in name for name in changed)
    assert logged["train_attention"][-1] < 0.8 * logged["train_attention"][0]
    begun = tmp_path / "one" / "checkpoints" / "last.ckpt"
    posteriors = ["--training.distil_posteriors", "1", "--training.distil_encoder", "0.1"]
    second = ["--init", str(begun), *common, *posteriors, "--training.steps", "20"]
    run_with(corpus, tmp_path / "two", *second, data=bare)
    assert logged["train_posteriors"][-1] < logged["train_posteriors"][0]


def test_one_run_learns_from_transcripts_and_where_there_is_none_from_the_teacher(
    teacher_run, corpus, tmp_path, logged, capsys
):
    mixed = tmp_path / "mixed"
    for split in ("train", "dev"):
        items = read_manifest(corpus / f"{split}.jsonl")
        texts = [replace(item, text="") if number % 2 else item for number, item in enumerate(items)]
        write_manifest(mixed / f"{split}.jsonl", texts if split == "train" else items)
    options = ["--attention", "mala", *SIZE, "--training.distil_posteriors", "1", "--resume", "auto"]
    options += ["--training.teacher", str(teacher_run), "--training.schedule", "noam", "--training.steps"]
    out = tmp_path / "run"
    run_with(corpus, out, *options, "4", data=mixed)
    assert not (out / "excluded.jsonl").read_text()
    told = capsys.readouterr().out
    assert "(80 utterances) for 4 steps" in told and "taught by the teacher alone: 40 of them, " in told
    assert min(logged["train_ctc"]) > 0 and min(logged["train_posteriors"]) > 0
    assert run_with(corpus, out, *options, "6", data=mixed)["global_step"] == 6
    with pytest.raises(UserError, match=r"^--data.train train: not the utterances that .* was trained on"):
        run_with(corpus, out, *options, "8")  # with all their texts
    alone = [*SIZE, "--training.steps", "1"]
    run_with(corpus, tmp_path / "alone", *alone, data=mixed)  # no teacher: nothing says anything of them
    assert (tmp_path / "alone" / "excluded.jsonl").read_text().count("empty text") == 40
    bare = [replace(item, text=" ") for item in read_manifest(mixed / "train.jsonl")]
    write_manifest(mixed / "train.jsonl", bare)
    with pytest.raises(
        UserError, match=r"^--data.train train: no utterance has a transcript; --training.ctc 0"
    ):
        run_with(corpus, tmp_path / "none", *options, "1", data=mixed)


def test_pieces_without_scores_do_without_transcripts_only(teacher_run, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "spells", False)
    options = ["--training.teacher", str(teacher_run), *SIZE, "--training.distil_posteriors", "1"]
    options += ["--training.steps", "1"]
    run_with(corpus, tmp_path / "run", *options, "--training.ctc", "0")
    with pytest.raises(UserError, match=r"without what says how to spell .* \(--training.ctc 0\)"):
        run_with(corpus, tmp_path / "other", *options)


def test_the_dev_loss_falls_by_what_the_teacher_says_alone(teacher_run, corpus, tmp_path, logged):
    options = ["--training.teacher", str(teacher_run), "--attention", "mala", *SIZE, "--training.ctc", "0"]
    options += [
        "--training.distil_posteriors",
        "1",
        "--training.steps",
        "40",
        "--training.validate_every",
        "10",
    ]
    run_with(corpus, tmp_path / "run", *options)
    assert logged["dev_loss"][-1] < 0.9 * logged["dev_loss"][0]


def test_a_run_goes_on_with_its_teacher_only(teacher_run, corpus, tmp_path):
    options = ["--attention", "mala", *SIZE, "--training.distil_posteriors", "0.5", "--resume", "auto"]
    options += ["--training.schedule", "noam", "--training.splice", "0.6"]
    out = tmp_path / "run"
    content = run_with(corpus, out, *options, "--training.teacher", str(teacher_run), "--training.steps", "2")
    assert content["teacher_digest"] and not any("teacher" in name for name in content["state_dict"])
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(teacher_run.read_bytes())
    more = run_with(corpus, out, *options, "--training.teacher", str(moved), "--training.steps", "4")
    assert more["global_step"] == 4 and more["teacher_digest"] == content["teacher_digest"]
    other = str(out / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"^--training.teacher .*: .*last.ckpt was taught by another model"):
        run_with(corpus, out, *options, "--training.teacher", other, "--training.steps", "6")
    for option, was, now in (("distil_posteriors", "0.5", "0.7"), ("splice", "0.6", "0.0")):
        changed = [now if value == was else value for value in options]
        with pytest.raises(UserError, match=rf"^--training.{option} {now}: .* was trained with {was}"):
            run_with(corpus, out, *changed, "--training.teacher", str(moved), "--training.steps", "6")


def test_modules_that_learn_from_shuffled_frames_go_on_so(teacher_run, corpus, tmp_path, logged):
    options = ["--attention", "mala", *SIZE, "--training.teacher", str(teacher_run), "--training.ctc", "0"]
    options += ["--encoder.batch_norm", "frozen", "--training.distil_modules", "1", "--resume", "auto"]
    options += ["--training.schedule", "noam", "--training.steps"]
    few = ["--training.taught_modules", "[feed_forward,convolution]"]
    shuffled = ["--training.shuffle_minutes", "0.5"]
    first = run_with(corpus, tmp_path, *options, "2", *few, *shuffled)
    more = run_with(corpus, tmp_path, *options, "4", *few, *shuffled)
    assert more["global_step"] == 4 and min(logged["train_modules"]) > 0
    for name, value in more["state_dict"].items():
        still = not any(kind in name for kind in ("feed_forward", "convolution")) or "running" in name
        assert torch.equal(value, first["state_dict"][name]) == still or "num_batches" in name, name
    with pytest.raises(UserError, match=r"^--training.taught_modules \[\]: .* was trained with \["):
        run_with(corpus, tmp_path, *options, "6", *shuffled)
    with pytest.raises(UserError, match=r"^--training.shuffle_minutes 0.0: .* was trained with 0.5"):
        run_with(corpus, tmp_path, *options, "6", *few)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"subsampling": SubsamplingConfig(factor=8)}, {}, "its frames are 40 ms long, the student's 80 ms"),
        (
            {"dim": 8},
            {"distil_encoder": 1.0},
            "--training.distil_encoder: the teacher's dimension is 16, the student's 8",
        ),
        (
            {"layers": 3},
            {"distil_attention": 1.0},
            "--training.distil_attention: the teacher has 2 layers, the student 3",
        ),
        (
            {"dim": 8},
            {"distil_modules": 1.0},
            "--training.distil_modules: the teacher's dimension is 16, the student's 8",
        ),
        (
            {"layers": 3},
            {"distil_modules": 1.0},
            "--training.distil_modules: the teacher has 2 layers, the student 3",
        ),
        (
            {"layers": 3},
            {"distil_stages": 1.0},
            "--training.distil_stages: the teacher has 2 layers, the student 3; at most 1 can be taught so",
        ),
        ({}, {"distil_stages": 1.0}, "--training.distil_stages: .* the student 2; at most 1 can be"),
        (
            {"layers": 3},
            {"distil_blocks": 1.0},
            "--training.distil_blocks: the teacher has 2 layers, the student 3; at most 2 can be taught so",
        ),
        ({"dim": 8}, {"distil_stages": 1.0}, "--training.distil_stages: the teacher's dimension is 16"),
        (
            {"mels": 40},
            {"distil_modules": 1.0},
            "--training.distil_modules: the teacher's features are not the student's",
        ),
        (
            {"mels": 40},
            {"distil_masks": "both"},
            "--training.distil_masks both: the teacher's features are not",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher_run, change, options, message):
    recipe = load_model(teacher_run)[1]
    mels = change.pop("mels", 20)
    student = replace(
        recipe.model, frontend=replace(PLAIN, mels=mels), encoder=replace(recipe.model.encoder, **change)
    )
    config = TrainingConfig(**{"teacher": str(teacher_run), "distil_posteriors": 1.0} | options)
    with pytest.raises(UserError, match=message):
        load_teacher(config, student, recipe.tokenizer)


def test_any_sizes_do_for_posteriors(teacher_run):
    recipe = load_model(teacher_run)[1]
    student = replace(recipe.model, encoder=replace(recipe.model.encoder, dim=8, layers=1))
    config = TrainingConfig(teacher=str(teacher_run), distil_posteriors=1.0)
    assert load_teacher(config, student, recipe.tokenizer).digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distil_attention": "1"}, "--training.distil_attention 1.0: wants --training.teacher"),
        ({"distil_masks": "both"}, "--training.distil_masks both: wants --training.teacher"),
        ({"distil_start": "nearest"}, "--training.distil_start nearest: wants --training.teacher"),
        ({"teacher": "x"}, "--training.teacher x: wants one of --training.distil_posteriors, "),
        ({"ctc": "0"}, "--training.ctc 0: nothing is left to learn from"),
        (
            {"ctc": "0", "teacher": "x", "distil_encoder": "1", "intermediate": "0.3"},
            "--training.intermediate 0.3: wants",
        ),
        ({"distil_encoder": "-1", "teacher": "x"}, "--training.distil_encoder -1.0: out of range"),
        (
            {"distil_modules": "1", "teacher": "x"},
            "--training.distil_modules 1: goes alone, with --training.ctc 0",
        ),
        (
            {"distil_modules": "1", "distil_stages": "1"} | ALONE,
            "--training.distil_modules 1: goes alone",
        ),
        (
            {"distil_stages": "1", "chunks": "[4]"} | ALONE,
            r"--training.chunks \[4\]: distil_stages has the full context alone",
        ),
        (
            {"taught_modules": "[ctc]"},
            r"--training.taught_modules \['ctc'\]: wants --training.distil_modules",
        ),
        ({"shuffle_minutes": "3"}, "--training.shuffle_minutes 3.0: wants --training.distil_modules"),
        (
            {"distil_modules": "1", "taught_modules": "[ctc]", "distil_start": "nearest"} | ALONE,
            "--training.distil_start nearest: wants attention among --training.taught_modules",
        ),
        (
            {"shuffle_minutes": "-3", "distil_modules": "1"} | ALONE,
            "--training.shuffle_minutes -3.0: out of range",
        ),
        (
            {"shuffle_minutes": "3", "chunks": "[4]", "distil_modules": "1"} | ALONE,
            "--training.shuffle_minutes 3: its pieces are of the full context",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    arguments = [part for name, value in options.items() for part in (f"--training.{name}", value)]
    with pytest.raises(UserError, match=f"^{message}"):
        parse_config(["--out", "x", *arguments])


@pytest.mark.parametrize("weight", APART)
def test_batch_norm_stands_still_from_the_start_for_modules_and_stages_alone(weight):
    arguments = ["--out", "x", "--encoder.batch_norm", "frozen"]
    with pytest.raises(UserError, match=r"^--encoder\.batch_norm frozen: without --init"):
        parse_config(arguments)
    options = {weight: "1"} | ALONE
    arguments += [part for name, value in options.items() for part in (f"--training.{name}", value)]
    assert parse_config(arguments).model.encoder.batch_norm == "frozen"


@pytest.mark.parametrize("weight", ["distil_posteriors", *APART])
def test_what_a_ctc_head_learns_wants_one(weight):
    options = ["--head", "transducer", "--training.transducer", "0", "--training.teacher", "x"]
    with pytest.raises(UserError, match=rf"^--training\.{weight} 1\.0: wants a CTC head"):
        parse_config(["--out", "x", *options, f"--training.{weight}", "1"])


def test_every_weight_is_an_option():
    assert {name for name in asdict(TrainingConfig()) if name.startswith("distil_")} == {
        *WEIGHTS,
        *APART,
        "distil_masks",
        "distil_start",
    }

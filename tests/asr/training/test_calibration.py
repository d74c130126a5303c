import copy

import torch

from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.calibration import SCALES, SHIFTS, calibrate, calibrate_on
from asr.training.config import TrainingConfig
from asr.training.distances import layer_error
from asr.training.distillation import Teacher, module_error, modules_to_match

ENCODER = EncoderConfig(dim=16, layers=3, heads=2, kernel=3, dropout=0.0)
FRONTEND = FrontendConfig(mels=20)


def build(attention: str, pieces: int = 12) -> Model:
    torch.manual_seed(0)
    return Model(ModelConfig(attention, encoder=ENCODER, frontend=FRONTEND), pieces)


def with_attention(teacher: Model) -> Teacher:
    config = TrainingConfig(teacher="x", distil_attention=1.0)
    return Teacher(teacher, same_features=True, modules=modules_to_match(teacher, config))


def teach(teacher: Model, lengths):
    torch.manual_seed(1)
    batch = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
    return with_attention(teacher).teach(*batch, *teacher.frontend.features(*batch))


def test_no_shift_of_all_heads_of_a_layer_is_better_than_what_is_found():
    teacher, student = build("softmax"), build("mala")
    taught = teach(teacher, [16_000, 9_000])
    for block in student.encoder.blocks:  # long queries and keys, as softmax's training leaves them
        block.attention.query.bias.data += 3.0
        block.attention.key.bias.data += 2.0
    before_it = [copy.deepcopy(block.attention.query) for block in student.encoder.blocks]

    def error(index: int, query: torch.nn.Linear, shift: float = 0.0) -> float:
        attention = student.encoder.blocks[index].attention
        (x, *_), wanted, _ = taught.modules[f"encoder.blocks.{index}.attention"]
        with torch.no_grad():
            attention.query.load_state_dict(query.state_dict())
            attention.query.bias -= shift
            return layer_error(attention(x, taught.valid), wanted, taught.valid).mean().item()

    before, after = calibrate(student, taught)
    found = [copy.deepcopy(block.attention.query) for block in student.encoder.blocks]
    errors = [error(index, query) for index, query in enumerate(found)]
    assert abs(after - sum(errors) / 3) < 1e-6 and after < 0.9 * before
    for index, (old, new) in enumerate(zip(before_it, found, strict=True)):
        scales = (new.weight / old.weight).unflatten(0, (2, -1))
        assert torch.allclose(scales, scales[:, :1, :1]) and set(scales[:, 0, 0].tolist()) <= set(SCALES)
        shifts = scales[:, :, 0].flatten() * old.bias - new.bias
        assert set(shifts.round(decimals=4).tolist()) <= set(map(float, SHIFTS))
        assert all(errors[index] <= error(index, old, shift) + 1e-6 for shift in SHIFTS)


def test_queries_that_no_shift_makes_short_are_scaled():
    """InLine's features are the queries themselves."""
    teacher, student = build("softmax"), build("inline")
    taught = teach(teacher, [16_000, 9_000])
    for block in student.encoder.blocks:
        block.attention.query.weight.data *= 100.0
    _, after = calibrate(student, taught)
    long = copy.deepcopy(student)
    for block in long.encoder.blocks:
        block.attention.query.weight.data *= 16
    assert after < 0.5 * module_error(long, taught).sum() / taught.valid.sum()


def test_what_is_the_teachers_stays_as_it_is():
    student = build("mala,softmax")
    taught = teach(build("mala,softmax"), [16_000])
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    assert calibrate(student, taught) == (0.0, 0.0)
    assert all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


def test_some_of_the_utterances_are_enough(corpus):
    tokenizer = Tokenizer.load(str(corpus / "tokenizer.model"))
    teacher, student = (build(name, tokenizer.pieces) for name in ("softmax", "mala"))
    utterances = read_manifest(corpus / "train.jsonl")
    told = calibrate_on(student.train(), with_attention(teacher), utterances, tokenizer)
    assert told.startswith("queries scaled and shifted: the attention's relative error starts at ")
    assert student.training and student.frontend.training

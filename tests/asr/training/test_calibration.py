import torch

from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.calibration import SHIFTS, calibrate, calibrate_on
from asr.training.distillation import Teacher, layer_error

ENCODER = EncoderConfig(dim=16, layers=3, heads=2, kernel=3, dropout=0.0)
FRONTEND = FrontendConfig(mels=20)


def build(attention: str, pieces: int = 12) -> Model:
    torch.manual_seed(0)
    return Model(ModelConfig(attention, encoder=ENCODER, frontend=FRONTEND), pieces)


def teach(teacher: Model, lengths):
    torch.manual_seed(1)
    batch = torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
    return Teacher(teacher, True, True).teach(*batch, *teacher.frontend.features(*batch))


def test_every_layer_starts_where_a_search_over_all_shifts_of_its_heads_finds_no_better_single_one():
    teacher, student = build("softmax"), build("mala")
    taught = teach(teacher, [16_000, 9_000])
    for block in student.encoder.blocks:  # long queries and keys, as softmax's training leaves them
        block.attention.query.bias.data += 3.0
        block.attention.key.bias.data += 2.0
    biases = [block.attention.query.bias.clone() for block in student.encoder.blocks]

    def error(index: int, bias) -> float:
        attention, (x, wanted) = student.encoder.blocks[index].attention, taught.attention[index]
        with torch.no_grad():
            attention.query.bias.copy_(bias)
            return layer_error(attention(x, taught.valid), wanted, taught.valid).mean().item()

    before, after = calibrate(student, taught)
    found = [block.attention.query.bias.detach().clone() for block in student.encoder.blocks]
    errors = [error(index, bias) for index, bias in enumerate(found)]
    assert abs(after - sum(errors) / 3) < 1e-6 and after < 0.9 * before
    for index, bias in enumerate(biases):
        assert set((bias - found[index]).round(decimals=4).tolist()) <= set(map(float, SHIFTS))
        assert all(errors[index] <= error(index, bias - shift) + 1e-6 for shift in SHIFTS)


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
    told = calibrate_on(student.train(), Teacher(teacher, True, True), utterances, tokenizer)
    assert told.startswith("queries shifted: the attention's relative error starts at ")
    assert student.training and student.frontend.training

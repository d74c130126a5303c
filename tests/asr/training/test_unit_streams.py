import pytest
import torch

from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.training.unit_streams import unit_streams, unit_streams_on

ENCODER = EncoderConfig(dim=16, layers=3, heads=2, kernel=3, dropout=0.0)


def build(attention: str, positions: str = "auto", pieces: int = 12) -> Model:
    """A model whose streams have powers of many sizes, as training leaves them."""
    torch.manual_seed(0)
    config = ModelConfig(attention, positions, encoder=ENCODER, frontend=FrontendConfig(mels=20))
    model = Model(config, pieces).eval()
    with torch.no_grad():
        for block in model.encoder.blocks:
            for norm in (block.norm, block.attention_norm):
                norm.weight.uniform_(0.1, 0.3)
                norm.bias.uniform_(-0.5, 0.5)
        model.encoder.subsampling.project.weight *= 50
        for linear in (model.encoder.blocks[0].feed_forward1[-2], model.encoder.blocks[0].attention.output):
            linear.weight *= 30
    return model


@pytest.mark.parametrize("attention", ["softmax", "mala", "inline"])
@pytest.mark.parametrize("positions", ["auto", "sinusoid"])
def test_the_function_stays_and_the_powers_are_one(attention, positions):
    model = build(attention, positions).double()
    features, lengths = torch.randn(2, 120, 20, dtype=torch.float64), torch.tensor([120, 75])
    before, frames = model.encoder(features, lengths)
    sizes = []
    unit_streams(model, features, lengths)
    for block in model.encoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0][inputs[1]].square().mean()))
    after, _ = model.encoder(features, lengths)
    for row, n in enumerate(frames):
        # What differs is the eps of layer norms, which is not scaled.
        assert torch.allclose(before[row, :n], after[row, :n], rtol=1e-3, atol=1e-3)
    assert torch.allclose(torch.stack(sizes), torch.ones(3, dtype=torch.float64), rtol=1e-3)
    folded = positions != "sinusoid" and attention != "inline"
    assert all((block.attention_norm.bias == 0).all() == folded for block in model.encoder.blocks)


def test_some_of_the_utterances_are_enough(corpus):
    tokenizer = Tokenizer.load(str(corpus / "tokenizer.model"))
    model = build("softmax", pieces=tokenizer.pieces)
    before = model.encoder.subsampling.project.weight.clone()
    unit_streams_on(model, read_manifest(corpus / "train.jsonl"), tokenizer)
    assert not torch.equal(before, model.encoder.subsampling.project.weight)

"""The three graphs, gone through as sherpa-onnx does, say what our greedy decoding says."""

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from asr.checkpoints import onnx_transducer
from asr.checkpoints.checkpoint import Recipe, pack_recipe, write_checkpoint
from asr.checkpoints.onnx_export import main
from asr.checkpoints.onnx_transducer import largest_logit_difference, transducer_graphs
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.label_looping import transducer_greedy
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.transducer import TransducerConfig

TOKENIZER = Tokenizer(train_tokenizer(["AB BA"], 6, "char"))
BLANK = TOKENIZER.pieces  # there


def build(head="transducer", **options):
    config = ModelConfig(
        "mala",
        encoder=EncoderConfig(dim=8, layers=1, heads=2, kernel=3),
        frontend=FrontendConfig(mels=20, f_max=7000.0),
        head=head,
        transducer=TransducerConfig(hidden=6, joint=5, **options),
    )
    torch.manual_seed(0)
    model = Model(config, TOKENIZER.pieces).eval()
    for value in model.transducer.parameters():
        value.data *= 4
    return model, Recipe(config, TOKENIZER)


def as_sherpa_does(session, features, config):
    """Pieces of one utterance (T, mels): one frame and one piece at a time, inputs by their order."""

    def run(name, *values):
        return session[name].run(
            None, dict(zip((i.name for i in session[name].get_inputs()), values, strict=True))
        )

    facts = session["encoder.onnx"].get_modelmeta().custom_metadata_map
    encoded, [frames] = run("encoder.onnx", features.T[None], np.array([len(features)]))
    state = [np.zeros((int(facts["pred_rnn_layers"]), 1, int(facts["pred_hidden"])), np.float32)] * 2
    blank, one = int(facts["vocab_size"]), np.ones(1, np.int32)
    predicted, _, *state = run("decoder.onnx", np.array([[blank]], np.int32), one, *state)
    said, t, here = [], 0, 0
    while t < frames:
        logits = run("joiner.onnx", encoded[:, :, t : t + 1], predicted)[0].reshape(-1)
        piece, jump = int(logits[: blank + 1].argmax()), 0
        if "tdt" in facts["url"]:
            jump = int(logits[blank + 1 :].argmax())
        if piece == blank:
            jump = max(jump, 1)
        else:
            said.append(piece)
            predicted, _, *state = run("decoder.onnx", np.array([[piece]], np.int32), one, *state)
            here += 1
            jump = max(jump, int(here == config.most))
        t, here = t + jump, 0 if jump else here
    return said


@pytest.mark.parametrize("options", [{"layers": 2}, {"durations": (0, 1, 2), "activation": "tanh"}], ids=str)
def test_the_graphs_say_what_the_model_says(options):
    model, recipe = build(**options)
    files = transducer_graphs(model, recipe)
    assert largest_logit_difference(files, model) < 1e-4
    session = {name: InferenceSession(data) for name, data in files.items() if name != "tokens.txt"}
    features, lengths = torch.randn(6, 90, 20), torch.tensor([90, 61, 40, 7, 90, 1])
    with torch.inference_mode():
        found = transducer_greedy(model.transducer, *model.encoder(features, lengths))
    for row, n, one in zip(features, lengths, found, strict=True):
        wanted = as_sherpa_does(session, row[:n].numpy(), recipe.model.transducer)
        assert [number - 1 for number in one.classes] == wanted
    assert max(len(one.classes) for one in found) > 3
    tokens = files["tokens.txt"].decode().splitlines()
    assert tokens[-1] == f"<blk> {BLANK}" and len(tokens) == BLANK + 1
    model.transducer.joint.project.bias.data[1] += 0.1
    assert largest_logit_difference(files, model) > 0.05


def test_the_program_makes_a_folder_or_refuses(tmp_path, capsys, monkeypatch):
    model, recipe = build("hybrid")
    content = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "recipe": pack_recipe(recipe.model, TOKENIZER),
        "global_step": 1,
        "training": {},
    }
    write_checkpoint(content, tmp_path / "best.ckpt")
    made = []  # by the first of two exports of the same model, of some seconds each

    def graphs(*loaded) -> dict[str, bytes]:
        made[:] = made or [transducer_graphs(*loaded)]
        return made[0]

    monkeypatch.setattr(onnx_transducer, "transducer_graphs", graphs)
    command = [str(tmp_path / "best.ckpt"), "--out", str(tmp_path / "made")]
    with pytest.raises(UserError, match=r"not written: .* more than --tolerance 1e-12"):
        main([*command, "--tolerance", "1e-12"])
    assert not (tmp_path / "made").exists()
    with pytest.raises(UserError, match="--waveforms: a transducer's graphs take features"):
        main([*command, "--waveforms"])
    main(command)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        *("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt")
    }
    assert "sherpa-onnx computes NeMo's features" in capsys.readouterr().out


def test_durations_that_sherpa_onnx_cannot_know_are_refused():
    model, recipe = build(durations=(1, 2))
    with pytest.raises(UserError, match=r"durations \[1, 2\]: sherpa-onnx takes them"):
        transducer_graphs(model, recipe)

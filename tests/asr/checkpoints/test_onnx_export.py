"""The ONNX graph is the model: at every length and batch, for every mechanism. (Some seconds an export.)"""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from asr.attention import ATTENTIONS, parse_attention
from asr.attention.inline import InlineOptions
from asr.attention.mala import MalaOptions
from asr.attention.softmax import SoftmaxOptions
from asr.checkpoints.checkpoint import Recipe, load_model, pack_recipe, write_checkpoint
from asr.checkpoints.onnx_export import difference_within, largest_difference, main, metadata, to_onnx
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig, SubsamplingConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model

ENCODER = EncoderConfig(dim=8, layers=1, heads=2, kernel=3)
FRONTEND = FrontendConfig(mels=20, f_max=7000.0)
TOKENIZER = Tokenizer(train_tokenizer(["AB BA"], 6, "char"))
CLOSE = 2e-5  # nats


def build(attention, positions="auto", options=None, seed=0):
    encoder = replace(ENCODER, layers=len(parse_attention(attention)))
    config = ModelConfig(attention, positions, options, encoder, FRONTEND)
    torch.manual_seed(seed)
    model = Model(config, TOKENIZER.pieces).eval()
    for value in (*model.parameters(), *model.encoder.buffers()):
        value.data += 0.3 * torch.rand_like(value)  # nothing stays at the zero or one it began with
    return model, Recipe(config, TOKENIZER)


def run(data, inputs, lengths):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    fed = {session.get_inputs()[0].name: inputs.numpy(), "lengths": torch.tensor(lengths).numpy()}
    return session.run(None, fed)


# Every mechanism as it is by default, three in a model, as some of an export
# is the same for all; and the positions and options that take other ways through the code.
NAMES = list(ATTENTIONS)
CASES = [(",".join(NAMES[start : start + 3]), "auto", None) for start in range(0, len(NAMES), 3)]
CASES += [
    (
        "softmax,mala",
        "rotary",
        {
            "softmax": SoftmaxOptions(unit_query=True),
            "mala": MalaOptions(form="released", terms="learnable", gate="plain"),
        },
    ),
    ("inline", "sinusoid", {"inline": InlineOptions(kernel="exp", lepe=5, gate="silu")}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:2]))
def test_the_graph_is_the_model(case):
    model, recipe = build(*case)
    data = to_onnx(model, recipe)
    assert largest_difference(data, model) < CLOSE
    # ONNX Runtime 1.28 has none in fp64, and sherpa-onnx 2.0.1 brings that one.
    assert "Cos" not in {node.op_type for node in onnx.load_from_string(data).graph.node}

    # At lengths that are in no list, and whatever stands in the padding.
    features = torch.randn(4, 333, 20)
    lengths = [333, 98, 96, 7]
    found, frames = run(data, features, lengths)
    assert found.shape == (4, 84, TOKENIZER.pieces + 1) and found.dtype == np.float32
    assert frames.tolist() == [84, 25, 24, 2] and frames.dtype == np.int64
    for row, length, n in zip(range(4), lengths, frames, strict=True):
        alone, _ = run(data, features[row : row + 1, :length], [length])
        np.testing.assert_allclose(found[row, :n], alone[0], atol=CLOSE)
    with torch.inference_mode():
        encoded, _ = model.encoder(features, torch.tensor(lengths))
        expected = model.head(encoded).numpy()
    np.testing.assert_allclose(found[0], expected[0], atol=CLOSE)
    assert not np.allclose(found[0, 0], found[0, 40], atol=0.01)  # it is about something


def test_differences_count_within_the_lengths_and_nan_is_one():
    found, wanted = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    found[0, 2], wanted[1, 1, 0] = np.nan, -0.5
    assert difference_within(found, wanted, np.array([2, 1])) == 0
    assert difference_within(found, wanted, np.array([2, 2])) == 0.5
    assert difference_within(found, wanted, np.array([3, 3])) == float("inf")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model, recipe = build("efficient")
    content = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "recipe": pack_recipe(recipe.model, TOKENIZER),
        "global_step": 1,
        "training": {},
    }
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    write_checkpoint(content, path)
    return path


@pytest.fixture(scope="module")
def heard(checkpoint):
    """A file that takes waveforms, made by the program."""
    path = checkpoint.with_name("heard.onnx")
    main([str(checkpoint), "--out", str(path), "--waveforms"])
    return path


def test_with_the_front_end_it_takes_waveforms(checkpoint, heard):
    model, _ = load_model(checkpoint)
    for samples in (512, 513, 671, 672, 16_000, 50_001):  # 512 is the least that a graph takes
        waveforms = 0.1 * torch.randn(2, samples)
        lengths = [samples, max(1, samples // 3)]
        found, frames = run(heard.read_bytes(), waveforms, lengths)
        with torch.inference_mode():
            expected, expected_frames = model(waveforms, torch.tensor(lengths))
        assert frames.tolist() == expected_frames.tolist() and found.shape == expected.shape
        for row, n in enumerate(frames):
            np.testing.assert_allclose(found[row, :n], expected[row, :n].numpy(), atol=10 * CLOSE)


@pytest.mark.parametrize("edges", ["new", "old"])
def test_imported_models_take_waveforms(edges):
    subsampling = SubsamplingConfig("depthwise", 8, 6)
    config = ModelConfig(
        "softmax",
        encoder=replace(ENCODER, subsampling=subsampling),
        frontend=FrontendConfig(kind="nemo", edges=edges, mels=20),
    )
    torch.manual_seed(0)
    model = Model(config, TOKENIZER.pieces).eval()
    data = to_onnx(model, Recipe(config, TOKENIZER), waveforms=True)
    assert largest_difference(data, model, waveforms=True) < 10 * CLOSE
    facts = metadata(Recipe(config, TOKENIZER), True)
    assert (facts["features"], facts["edges"], facts["subsampling"]) == ("nemo", edges, "8")


def test_the_file_says_what_it_needs(heard):
    proto = onnx.load(heard)
    onnx.checker.check_model(proto, full_check=True)
    facts = {item.key: item.value for item in proto.metadata_props}
    expected = {"input": "waveforms", "sample_rate": "16000", "mels": "20", "f_max": "7000.0", "blank": "0"}
    expected |= {"hop": "160", "window": "400", "fft": "512", "subsampling": "4"}
    expected |= {"attention": "efficient", "tokenizer": TOKENIZER.digest}
    assert {name: facts[name] for name in expected} == expected
    vocabulary = json.loads(facts["vocabulary"])
    assert vocabulary[0] == "<unk>" and sorted(vocabulary[1:]) == ["A", "B", "▁"]
    assert facts["pieces"] == "4"
    shapes = [item.type.tensor_type.shape.dim for item in proto.graph.input]
    assert [[size.dim_param for size in shape] for shape in shapes] == [["batch", "samples"], ["batch"]]
    assert [item.name for item in proto.graph.output] == ["log_probs", "output_lengths"]
    assert b".py" not in heard.read_bytes()  # no traces of where it was made


def test_a_graph_of_other_weights_is_found_out(checkpoint, heard):
    model, _ = load_model(checkpoint)
    assert largest_difference(heard.read_bytes(), model, waveforms=True) < 10 * CLOSE
    other, _ = build("efficient", seed=1)
    assert largest_difference(heard.read_bytes(), other, waveforms=True) > 0.01
    model.head.project.bias.data[0] = float("nan")
    assert largest_difference(heard.read_bytes(), model, waveforms=True) == float("inf")


def test_too_large_a_difference_leaves_no_file(checkpoint, tmp_path, capsys):
    with pytest.raises(UserError, match=r"model\.onnx: not written: .* more than --tolerance 1e-12"):
        main([str(checkpoint), "--out", str(tmp_path / "model.onnx"), "--tolerance", "1e-12"])
    assert "largest difference from PyTorch over 9 batches of 1 to 1601 frames: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_said_before_any_work(checkpoint, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # what import makes of it is an ImportError
    with pytest.raises(UserError, match=rf"^{package} is not installed; .*pip install -e '\.\[onnx\]'"):
        main([str(checkpoint), "--out", str(tmp_path / "model.onnx")])
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line(checkpoint, tmp_path):
    with pytest.raises(UserError, match="absent: no such checkpoint"):
        main([str(tmp_path / "absent"), "--out", str(tmp_path / "model.onnx")])
    with pytest.raises(UserError, match="a folder; name a file in it"):
        main([str(checkpoint), "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frontend": FrontendConfig(normalise="running")}, "no graph is made of running features"),
        ({"options": {"mala": MalaOptions(forget="fixed")}}, "no graph is made of attention that forgets"),
    ],
)
def test_what_no_graph_is_made_of_is_refused(options, message):
    config = ModelConfig("mala", encoder=EncoderConfig(dim=16, layers=1, heads=2), **options)
    with pytest.raises(UserError, match=message):
        to_onnx(Model(config, TOKENIZER.pieces), Recipe(config, TOKENIZER))

import numpy as np
import pytest
import torch

from asr.checkpoints.checkpoint import load_model, pack_recipe, write_checkpoint
from asr.data import audio
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from asr.figures.__main__ import main
from asr.figures.alignment import align
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.transcriber import load

TINY = EncoderConfig(dim=16, layers=1, heads=2, kernel=5)


@pytest.fixture(scope="module")
def utterance(corpus):
    return read_manifest(corpus / "test.jsonl")[0]


@pytest.fixture(scope="module")
def checkpoints(corpus, tmp_path_factory):
    """A checkpoint with random weights for each head."""
    folder = tmp_path_factory.mktemp("alignment")
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    for head in ("ctc", "transducer"):
        torch.manual_seed(0)
        config = ModelConfig("mala", encoder=TINY, frontend=FrontendConfig(mels=20), head=head)
        weights = {f"model.{key}": value for key, value in Model(config, 64).state_dict().items()}
        content = {"recipe": pack_recipe(config, tokenizer), "state_dict": weights}
        write_checkpoint(content | {"global_step": 0, "training": {}}, folder / f"{head}.ckpt")
    return folder


def test_what_the_model_hears_is_what_the_library_says(checkpoints, utterance):
    model = checkpoints / "ctc.ckpt"
    found = align(*load_model(model), audio.load(utterance.audio))
    assert found.words == load(model).transcribe(str(utterance.audio), timestamps=True).words
    assert np.allclose(found.posteriors.sum(1), 1, atol=1e-5)
    assert len(found.classes) >= len(found.words) > 0


def test_a_given_text_is_aligned_word_by_word(checkpoints, utterance, tmp_path, capsys):
    words = utterance.text.split()
    options = ["--checkpoint", checkpoints / "ctc.ckpt", "--audio", utterance.audio, "--text", utterance.text]
    picture = tmp_path / "new" / "alignment.png"
    main(["alignment", *map(str, options), "--out", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"{len(words)} words" in capsys.readouterr().out
    found = align(*load_model(checkpoints / "ctc.ckpt"), audio.load(utterance.audio), utterance.text)
    assert [word.text for word in found.words] == words
    assert all(a.end <= b.start for a, b in zip(found.words, found.words[1:], strict=False))
    assert found.words[-1].end <= len(found.posteriors) * found.frame_seconds


def test_a_part_of_a_recording(checkpoints, utterance, tmp_path):
    options = ["--checkpoint", checkpoints / "ctc.ckpt", "--audio", utterance.audio, "--start", 0.5]
    main(["alignment", *map(str, options), "--seconds", "0.7", "--out", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("ctc", ["--text", "3"], "--text"),
        ("ctc", ["--text", ""], "--text"),
        ("ctc", ["--text", "THE " * 500], "do not fit"),
        ("ctc", ["--seconds", "0"], "--seconds"),
        ("ctc", ["--start", "1000"], "--start"),
        ("transducer", [], "CTC head"),
    ],
)
def test_what_cannot_be_drawn_is_refused(checkpoints, utterance, tmp_path, head, options, message):
    options = ["--checkpoint", checkpoints / f"{head}.ckpt", "--audio", utterance.audio, *options]
    with pytest.raises(UserError, match=message):
        main(["alignment", *map(str, options), "--out", str(tmp_path / "a.png")])
    assert not list(tmp_path.iterdir())

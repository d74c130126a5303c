"""Imported models compute what their originals do, by an independent plain forward under NeMo's names."""

import json
import tarfile
from dataclasses import replace

import pytest
import torch
import yaml
from plain_nemo import (
    HYBRID,
    PIECES,
    TOKENIZER,
    TRANSDUCER,
    add_member,
    log_probs,
    make_config,
    make_weights,
    transducer_greedy,
    write_nemo,
)
from safetensors.torch import save_file

import decode
from asr.checkpoints.__main__ import main
from asr.checkpoints.checkpoint import load_model, read_trained
from asr.checkpoints.foreign import importing
from asr.checkpoints.foreign.importing import ImportOptions, cached, import_model
from asr.data.tokenizer import Tokenizer
from asr.decoding.label_looping import transducer_greedy as greedy_of_transducer
from asr.errors import UserError
from asr.model.long import long_log_probs
from asr.training.config import parse_config
from asr.training.data import TrainingData

DEPTHWISE = {"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 12}
KINDS = {
    "Conformer": {},
    "Conformer 8x": {"subsampling_factor": 8},
    "own channels": {"subsampling_conv_channels": 12},
    "FastConformer": {**DEPTHWISE, "xscaling": False},
    "depthwise 4x": {**DEPTHWISE, "subsampling_factor": 4},
    "128 mels": {**DEPTHWISE, "mels": 128},
    "tied biases": {"untie_biases": False},
    "no biases": {**DEPTHWISE, "use_bias": False},
    "hybrid": {"target": HYBRID, **DEPTHWISE},
}
TRANSDUCERS = {
    "Conformer-Transducer": {"target": TRANSDUCER},
    "two layers": {"target": TRANSDUCER, "transducer": {"layers": 2, "most": 2}},
    "FastConformer-RNNT": {"target": TRANSDUCER, **DEPTHWISE, "transducer": {"dropout": 0.0}},
    "tanh": {"target": TRANSDUCER, "transducer": {"activation": "tanh"}},
    "sigmoid": {"target": TRANSDUCER, "transducer": {"activation": "sigmoid"}},
    "hybrid": {"target": HYBRID, **DEPTHWISE},
    "Parakeet-TDT": {
        "target": TRANSDUCER,
        **DEPTHWISE,
        "mels": 128,
        "transducer": {"durations": (0, 1, 2, 3, 4)},
    },
    "TDT hybrid": {"target": HYBRID, **DEPTHWISE, "use_bias": False, "transducer": {"durations": (0, 1, 3)}},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def waveforms() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [0.1 * torch.randn(n, generator=generator) for n in (9_999, 24_000, 16_160)]


def ours(folder, recordings) -> list[torch.Tensor]:
    """Log-probabilities with the blank last, as NeMo's, of a padded batch in float64."""
    model = load_model(folder)[0].double()
    lengths = torch.tensor([len(x) for x in recordings])
    padded = torch.nn.utils.rnn.pad_sequence(recordings, batch_first=True).double()
    with torch.inference_mode():
        found, frames = model(padded, lengths)
    return [blank_last(row[:n]) for row, n in zip(found, frames.tolist(), strict=True)]


def blank_last(x):
    return torch.cat((x[:, 1:], x[:, :1]), 1)


def compare(folder, config, weights, edges):
    for waveform, found in zip(waveforms(), ours(folder, waveforms()), strict=True):
        wanted = log_probs(weights, config, waveform, edges)
        assert found.shape == wanted.shape and wanted.std() > 0.5  # it is about something
        assert torch.allclose(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("edges", ["new", "old"])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_the_original_s(kind, edges, tmp_path):
    config = make_config(**KINDS[kind])
    weights = make_weights(config)
    path = write_nemo(tmp_path / "model.nemo", config, weights)
    import_model(path, tmp_path / "ours", ImportOptions(edges=edges))
    compare(tmp_path / "ours", config, weights, edges)


@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_a_transducer_says_what_the_original_does(kind, tmp_path):
    config = make_config(**TRANSDUCERS[kind])
    weights = make_weights(config)
    import_model(write_nemo(tmp_path / "model.nemo", config, weights), tmp_path / "ours")
    model, recipe = load_model(tmp_path / "ours")
    assert recipe.model.head == ("hybrid" if "hybrid" in kind else "transducer")
    model.double()
    lengths = torch.tensor([len(x) for x in waveforms()])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms(), batch_first=True).double()
    with torch.no_grad():
        encoded, frames = model.encode(padded, lengths)
        found = greedy_of_transducer(model.transducer, encoded, frames)
    counts = set()
    for waveform, one in zip(waveforms(), found, strict=True):
        said, logits = transducer_greedy(weights, config, waveform, "new")
        assert [number - 1 for number in one.classes] == said
        counts.add(len(said))
        steps = logits[:, : PIECES + 1].log_softmax(-1).max(-1)
        expected = steps.values[steps.indices != PIECES].tolist()
        assert one.log_probs == pytest.approx(expected, rel=0, abs=1e-8)
    assert len(counts) > 1 and max(counts) > 3  # it is about something


@pytest.mark.parametrize(("mode", "folder"), [("w", ""), ("w:gz", "./"), ("w:gz", "")])
def test_old_and_new_archives(mode, folder, tmp_path):
    config = make_config()
    weights = make_weights(config)
    path = write_nemo(tmp_path / "model.nemo", config, weights, mode=mode, folder=folder)
    compare(path, config, weights, "new")


def test_chunks_of_a_long_recording_give_the_same(tmp_path):
    config = make_config(**KINDS["FastConformer"])
    weights = make_weights(config)
    import_model(write_nemo(tmp_path / "model.nemo", config, weights), tmp_path / "ours")
    model = load_model(tmp_path / "ours")[0].double()
    for waveform in waveforms():
        parts = long_log_probs(model, iter(waveform.double().split(1_234)), chunk=3)
        wanted = log_probs(weights, config, waveform, "new")
        assert torch.allclose(blank_last(torch.cat(list(parts))), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("version", "edges"),
    [
        ("1.0.0", "old"),
        ("2.4.1", "old"),
        ("2.5.0rc0", "new"),
        ("2.10.0", "new"),
        ("3.0.0", "new"),
        (None, "old"),
    ],
)
def test_edges_are_those_of_the_nemo_that_saved_the_model(version, edges, tmp_path):
    config = make_config()
    config["nemo_version"] = version
    if version is None:
        del config["nemo_version"]
    about = import_model(write_nemo(tmp_path / "m.nemo", config, make_weights(config)), tmp_path / "ours")
    assert about.endswith(f"{edges} edges")
    assert load_model(tmp_path / "ours")[1].model.frontend.edges == edges


def test_the_folder_says_where_it_comes_from_and_keeps_it(tmp_path):
    config = make_config()
    path = write_nemo(tmp_path / "public.nemo", config, make_weights(config))
    licence = "CC BY 4.0, NVIDIA"
    main(["import", str(path), "--out", str(tmp_path / "ours"), "--licence", licence])
    main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "again")])
    card = (tmp_path / "again" / "README.md").read_text()
    assert card == (tmp_path / "ours" / "README.md").read_text()
    for text in ("| imported from | public.nemo |", licence, "EncDecCTCModelBPE of NeMo 3.0.0"):
        assert text in card
    assert "not by this recipe" in card and "To be stated" not in card
    [origin] = read_trained(tmp_path / "again")["origin"]
    assert origin["SHA-256"] == importing.digest(path)


def test_training_keeps_the_statistics_of_an_import(tmp_path):
    """NeMo's batch norm counts padding: the statistics of our batches would be another model's."""
    config = make_config()
    import_model(write_nemo(tmp_path / "m.nemo", config, make_weights(config)), tmp_path / "ours")
    given = parse_config(["--init", str(tmp_path / "ours"), "--out", "x", "--attention", "mala"])
    assert given.model.encoder.batch_norm == "frozen"


def test_the_cache_is_made_once_and_again_for_another_file(tmp_path, capfd):
    config = make_config()
    path = write_nemo(tmp_path / "model.nemo", config, make_weights(config))
    load_model(path)
    [folder] = (tmp_path / "cache" / "magnitude-asr" / "imported").glob("[!.]*")
    assert "importing" in capfd.readouterr().err
    before = folder.stat().st_mtime_ns
    assert cached(path) == folder and folder.stat().st_mtime_ns == before
    assert capfd.readouterr().err == ""
    write_nemo(path, config, make_weights(config, seed=1))
    assert cached(path) != folder


def test_a_cache_that_cannot_be_written_comes_with_advice(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    config = make_config()
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        load_model(write_nemo(tmp_path / "model.nemo", config, make_weights(config)))


HF_NAMES = {
    "encoder.pre_encode.conv.": "encoder.subsampling.layers.",
    "encoder.pre_encode.out.": "encoder.subsampling.linear.",
    ".conv.batch_norm.": ".conv.norm.",
    ".linear_pos.": ".relative_k_proj.",
    ".linear_q.": ".q_proj.",
    ".linear_k.": ".k_proj.",
    ".linear_v.": ".v_proj.",
    ".linear_out.": ".o_proj.",
    ".pos_bias_": ".bias_",
    "decoder.decoder_layers.0.": "ctc_head.",
}


def write_huggingface(folder, config, weights, licence="cc-by-4.0"):
    """The same model as transformers would save it."""
    folder.mkdir()
    theirs = {}
    for name, value in weights.items():
        for nemo, hugging in HF_NAMES.items():
            name = name.replace(nemo, hugging)
        if not name.startswith("preprocessor."):
            theirs[name] = value.clone()
    save_file(theirs, folder / "model.safetensors")
    e, features = config["encoder"], config["preprocessor"]
    encoder = {
        "model_type": "parakeet_encoder",
        "hidden_size": e["d_model"],
        "num_hidden_layers": e["n_layers"],
        "num_attention_heads": e["n_heads"],
        "intermediate_size": e["d_model"] * e["ff_expansion_factor"],
        "hidden_act": "silu",
        "attention_bias": e.get("use_bias", True),
        "convolution_bias": e.get("use_bias", True),
        "conv_kernel_size": e["conv_kernel_size"],
        "subsampling_factor": e["subsampling_factor"],
        "subsampling_conv_channels": e["subsampling_conv_channels"],
        "num_mel_bins": features["features"],
        "scale_input": e["xscaling"],
    }
    about = {"model_type": "parakeet_ctc", "encoder_config": encoder, "vocab_size": PIECES + 1}
    (folder / "config.json").write_text(json.dumps(about | {"pad_token_id": PIECES}))
    extractor = {
        "feature_size": features["features"],
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 512,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor | {"win_length": 400}))
    pieces = Tokenizer(TOKENIZER)
    vocabulary = {pieces.piece(i + 1): i for i in range(PIECES)}
    tokenizer = {
        "added_tokens": [{"id": 0, "content": "<unk>"}, {"id": PIECES, "content": "<pad>"}],
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocabulary, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "README.md").write_text(f"---\nlanguage: en\nlicense: {licence}\n---\n# A model\n")
    return folder


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("mels", [80, 128])
def test_a_huggingface_folder(mels, use_bias, tmp_path):
    config = make_config(mels=mels, use_bias=use_bias, **DEPTHWISE)
    weights = make_weights(config)
    folder = write_huggingface(tmp_path / "parakeet", config, weights)
    import_model(folder, tmp_path / "ours")
    compare(tmp_path / "ours", config, weights, "new")
    assert "| licence | cc-by-4.0 |" in (tmp_path / "ours" / "README.md").read_text()


def test_huggingface_s_pieces_decode_but_do_not_spell(tmp_path):
    config = make_config(**DEPTHWISE)
    folder = write_huggingface(tmp_path / "parakeet", config, make_weights(config))
    about = import_model(folder, tmp_path / "ours")
    assert "to decode, not to train" in about
    original, found = Tokenizer(TOKENIZER), load_model(tmp_path / "ours")[1].tokenizer
    classes = original.encode("the cat sat on a mat")
    assert found.decode(classes) == "THE CAT SAT ON A MAT"
    assert original.spells and not found.spells
    config = parse_config(["--data.tokenizer", "folder/tokenizer.model", "--out", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"folder/tokenizer\.model: imported without what says how to spell"):
        TrainingData(config, found)

    given = tmp_path / "0123_tokenizer.model"
    given.write_bytes(TOKENIZER)
    import_model(folder, tmp_path / "with", ImportOptions(tokenizer=given))
    found = load_model(tmp_path / "with")[1].tokenizer
    assert found.spells and found.encode("THE CAT SAT") == original.encode("the cat sat")


def test_another_model_s_tokenizer_is_refused(tmp_path):
    from asr.data.tokenizer import train_tokenizer

    config = make_config(**DEPTHWISE)
    folder = write_huggingface(tmp_path / "parakeet", config, make_weights(config))
    other = tmp_path / "other.model"
    other.write_bytes(train_tokenizer(["an old man and no sea", "seven seas"] * 9, PIECES))
    with pytest.raises(UserError, match="not the tokenizer of this model"):
        import_model(folder, tmp_path / "ours", replace(ImportOptions(), tokenizer=other))
    assert not (tmp_path / "ours").exists()


def test_an_unpacked_archive(tmp_path):
    config = make_config()
    weights = make_weights(config)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    torch.save(weights, folder / "model_weights.ckpt")
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config))
    (folder / "0123_tokenizer.model").write_bytes(TOKENIZER)
    compare(folder, config, weights, "new")


def change(name, value):
    def apply(weights):
        weights[name] = value(weights[name]) if name in weights else value(None)

    return apply


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 999_999}, r"--encoder\.layers 999999: out of range"),
        ({"n_heads": 3}, "not a multiple of"),
    ],
)
def test_sizes_that_cannot_be_are_named(options, message, tmp_path):
    path = write_nemo(tmp_path / "model.nemo", make_config(**options), make_weights(make_config()))
    with pytest.raises(UserError, match=rf"model\.nemo: .*{message}"):
        import_model(path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("encoder.layers.1.norm_out.bias"), r"lacks encoder\.layers\.1\.norm_out\.bias"),
        (
            change("encoder.out_proj.weight", lambda _: torch.zeros(3, 3)),
            r"encoder\.out_proj\.weight: weights of",
        ),
        (
            change("encoder.layers.0.self_attn.linear_q.weight", lambda w: w[:8]),
            r"linear_q\.weight has shape \(8, 16\)",
        ),
        (
            change("decoder.decoder_layers.0.bias", lambda b: b[:-1]),
            r"decoder_layers\.0\.bias has shape \(\d+,\)",
        ),
        (change("joint.enc.weight", lambda _: torch.zeros(3, 3)), r"joint\.enc\.weight: weights of"),
        (change("encoder.pre_encode.out.weight", lambda w: w[:, 1:]), r"pre_encode\.out\.weight has shape"),
        (change("encoder.layers.0.norm_out.bias", lambda b: b.long()), "not of floating-point numbers"),
        (change("encoder.layers.0.norm_out.bias", lambda b: b[:1].expand(10**12)), "larger than the file"),
    ],
)
def test_weights_that_do_not_fit_are_named(spoil, message, tmp_path):
    config = make_config()
    weights = make_weights(config)
    spoil(weights)
    path = write_nemo(tmp_path / "model.nemo", config, weights)
    with pytest.raises(UserError, match=message):
        import_model(path, tmp_path / "ours")
    assert [item.name for item in tmp_path.iterdir()] == ["model.nemo"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "EncDecRNNTModel"}, "target EncDecRNNTModel: .*a character vocabulary"),
        ({"att_context_size": [70, 13]}, r"encoder\.att_context_size \[70, 13\]: .*only None or"),
        ({"conv_norm_type": "layer_norm"}, r"encoder\.conv_norm_type layer_norm: .*only batch_norm is"),
        ({"adapter": {}}, r"encoder\.adapter present"),
    ],
)
def test_decoding_with_what_does_not_fit_is_one_line(options, message, tmp_path, capfd):
    """Through the whole program, after which there is nothing in the cache."""
    plain = make_config()
    path = write_nemo(tmp_path / "model.nemo", make_config(**options), make_weights(plain))
    with pytest.raises(UserError, match=rf"^{path}: model_config\.yaml: {message}") as error:
        decode.main(["--checkpoint", str(path), "--audio", "a.wav"])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache" / "magnitude-asr" / "imported").glob("[!.]*"))


def test_a_transducer_whose_blank_is_no_zero_vector_is_refused(tmp_path):
    config = make_config(target=TRANSDUCER)
    weights = make_weights(config)
    weights["decoder.prediction.embed.weight"][PIECES, 3] = 0.1
    path = write_nemo(tmp_path / "model.nemo", config, weights)
    with pytest.raises(UserError, match=r"decoder\.prediction\.embed\.weight: the blank's row is not zero"):
        import_model(path, tmp_path / "ours")


def test_what_is_no_other_toolkits_model_is_told_what_would_be_one(tmp_path):
    (tmp_path / "model.pt").write_text("")
    with pytest.raises(
        UserError, match=r"model\.pt: neither a \.nemo file, packed or unpacked, nor a folder"
    ):
        import_model(tmp_path / "model.pt", tmp_path / "ours")


def test_biases_that_the_configuration_denies_are_refused(tmp_path):
    """NeMo would not load them, and transformers would leave them out."""
    has, says = make_config(**DEPTHWISE), make_config(use_bias=False, **DEPTHWISE)
    message = r"feed_forward1\.linear1\.bias: present, but its configuration says that there are no"
    folder = write_huggingface(tmp_path / "parakeet", says, make_weights(has))
    archive = write_nemo(tmp_path / "model.nemo", says, make_weights(has))
    for path in (folder, archive):
        with pytest.raises(UserError, match=message):
            import_model(path, tmp_path / "ours")


def test_one_kind_of_biases_alone_is_refused(tmp_path):
    config = make_config(**DEPTHWISE)
    folder = write_huggingface(tmp_path / "parakeet", config, make_weights(config))
    about = json.loads((folder / "config.json").read_text())
    about["encoder_config"]["attention_bias"] = False
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="attention_bias False: only the same as convolution_bias"):
        import_model(folder, tmp_path / "ours")


def test_a_transducer_with_durations_is_not_trained(tmp_path):
    config = make_config(**TRANSDUCERS["TDT hybrid"])
    import_model(write_nemo(tmp_path / "m.nemo", config, make_weights(config)), tmp_path / "ours")
    given = ["--init", str(tmp_path / "ours"), "--out", "x", "--attention", "mala"]
    with pytest.raises(UserError, match=r"--transducer\.durations \[0, 1, 3\]: .* only decodes"):
        parse_config([*given, "--head", "hybrid"])
    assert parse_config([*given, "--head", "ctc"]).model.head == "ctc"


def test_several_tokenizers_or_none(tmp_path):
    """Aggregate ones whose configuration does not say so, and a file that lost its own."""
    config = make_config()
    weights = make_weights(config)
    for name, tokenizers in (("two", 2), ("none", 0)):
        path = write_nemo(tmp_path / f"{name}.nemo", config, weights, mode="w")
        rewrite_tokenizers(path, tokenizers)
        with pytest.raises(UserError, match="does not hold one SentencePiece model"):
            import_model(path, tmp_path / "ours")


def rewrite_tokenizers(path, count):
    with tarfile.open(path) as old:
        members = {member.name: old.extractfile(member).read() for member in old}
    with tarfile.open(path, "w") as new:
        for name, data in members.items():
            if not name.endswith("tokenizer.model"):
                add_member(new, name, data)
        for number in range(count):
            add_member(new, f"./{number}_tokenizer.model", TOKENIZER)


def spoiled(name, **options):
    """Other options in one of a Hugging Face folder's JSON files; None takes the file away."""

    def spoil(folder):
        path = folder / name
        if not options:
            path.unlink()
            return
        content = json.loads(path.read_text())
        for option, value in options.items():
            section, _, key = option.rpartition("__")
            (content[section] if section else content)[key] = value
        path.write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            spoiled("config.json", model_type="wav2vec2"),
            r"config\.json: model_type wav2vec2: only parakeet_ctc",
        ),
        (spoiled("config.json", model_type="parakeet_tdt"), r"model_type parakeet_tdt: only parakeet_ctc"),
        (spoiled("config.json", encoder_config__hidden_act="gelu"), r"hidden_act gelu: .*only silu is"),
        (spoiled("config.json", encoder_config__subsampling_conv_stride=3), r"subsampling_conv_stride 3: "),
        (
            spoiled("config.json", encoder_config__intermediate_size=33),
            "intermediate_size 33: not a multiple",
        ),
        (spoiled("config.json", pad_token_id=0), "pad_token_id 0: the blank must be the last"),
        (spoiled("preprocessor_config.json", sampling_rate=8000), r"preprocessor\.sample_rate 8000: "),
        (spoiled("preprocessor_config.json", hop_length=200), r"preprocessor\.n_window_stride 200: "),
        (spoiled("preprocessor_config.json"), r"processor_config\.json: cannot be read"),
        (spoiled("model.safetensors"), r"model\.safetensors: missing; weights in one file"),
        (spoiled("tokenizer.json"), r"tokenizer\.json: cannot be read"),
    ],
)
def test_a_huggingface_folder_that_does_not_fit_is_named(spoil, message, tmp_path):
    config = make_config(**DEPTHWISE)
    folder = write_huggingface(tmp_path / "parakeet", config, make_weights(config))
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        import_model(folder, tmp_path / "ours")
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()

"""What cannot be computed exactly is refused by name, and what makes no difference is not."""

import pytest
from plain_nemo import HYBRID, TRANSDUCER, make_config

from asr.checkpoints.foreign.configuration import convert_config
from asr.errors import UserError

MODELS = "nemo.collections.asr.models."
REFUSED = {
    "encoder": [
        ("att_context_size", [128, 128]),
        ("att_context_size", [[70, 13], [70, 1]]),
        ("att_context_style", "chunked_limited"),
        ("self_attention_model", "rel_pos_local_attn"),
        ("self_attention_model", "abs_pos"),
        ("causal_downsampling", True),
        ("conv_context_size", "causal"),
        ("conv_norm_type", "layer_norm"),
        ("reduction", "pooling"),
        ("reduction_factor", 2),
        ("feat_out", 640),
        ("global_tokens", 1),
        ("subsampling", "vggnet"),
        ("subsampling", "stacking"),
        ("subsampling", "striding_conv1d"),
        ("subsampling_factor", 2),
        ("conv_kernel_size", 4),
        ("d_model", 15),
        ("feat_in", 64),
        ("_target_", "nemo.collections.asr.modules.SqueezeformerEncoder"),
        ("adapter", {"enabled": True}),
        ("an_option_of_next_year", 1),
    ],
    "preprocessor": [
        ("normalize", "all_features"),
        ("normalize", "NA"),
        ("sample_rate", 8000),
        ("window_size", 0.02),
        ("window_stride", 0.0125),
        ("window_stride", "often"),
        ("n_fft", 1024),
        ("window", "hamming"),
        ("preemph", 0.0),
        ("log_zero_guard_type", "clamp"),
        ("frame_splicing", 3),
        ("exact_pad", True),
        ("mag_power", 1.0),
        ("lowfreq", 20),
        ("use_torchaudio", True),
        ("n_window_size", 512),
        ("log", False),
        ("log_zero_guard_value", 1e-5),
        ("mel_norm", None),
        ("highfreq", "high"),
        ("stft_of_next_year", True),
        ("_target_", "nemo.collections.asr.modules.AudioToMFCCPreprocessor"),
    ],
}


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [(section, *pair) for section, pairs in REFUSED.items() for pair in pairs],
)
def test_what_cannot_be_exact_is_refused_by_name(section, option, value):
    config = make_config()
    if option.startswith("n_window"):  # taken where there are no seconds
        config[section][option.removeprefix("n_")] = None
    config[section][option] = value
    with pytest.raises(UserError, match=rf"^m\.nemo: {section}\.{option} .*cannot be computed exactly"):
        convert_config(config, "m.nemo")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("rnnt_models.EncDecRNNTModel", "a character vocabulary"),
        ("ctc_models.EncDecCTCModel", "a character vocabulary"),
        ("hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel", "a character vocabulary"),
        ("hybrid_rnnt_ctc_bpe_models_prompt.EncDecHybridRNNTCTCBPEModelWithPrompt", "prompts"),
        ("aed_multitask_models.EncDecMultiTaskModel", "an attention decoder"),
        ("clustering_diarizer.ClusteringDiarizer", "neither a CTC model nor"),
    ],
)
def test_other_models_are_refused(target, why):
    with pytest.raises(UserError, match=f"target {target.rpartition('.')[2]}: .*{why}"):
        convert_config(make_config(target=MODELS + target), "m.nemo")


@pytest.mark.parametrize("kind", ["agg", "wpe"])
def test_other_tokenizers_are_refused(kind):
    config = make_config()
    config["tokenizer"] = {"type": kind, "langs": {}}
    with pytest.raises(UserError, match=rf"tokenizer\.type {kind}: "):
        convert_config(config, "m.nemo")


def test_adapters_are_refused():
    with pytest.raises(UserError, match="adapters present"):
        convert_config(make_config() | {"adapters": {"one": {}}}, "m.nemo")


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("encoder", "att_context_size", None),
        ("encoder", "att_context_size", [[-1, -1]]),
        ("encoder", "dropout_att", 0.3),
        ("encoder", "feat_out", 16),
        ("encoder", "use_pytorch_sdpa", True),
        ("encoder", "pos_emb_max_len", 7),
        ("preprocessor", "pad_to", 16),
        ("preprocessor", "dither", 0.1),
        ("preprocessor", "mag_power", 2),
        ("preprocessor", "n_fft", None),
    ],
)
def test_what_changes_nothing_is_taken(section, option, value):
    plain, config = make_config(), make_config()
    config[section][option] = value
    assert convert_config(config, "m.nemo") == convert_config(plain, "m.nemo")


@pytest.mark.parametrize(
    "spoil", [lambda c: c.pop("encoder"), lambda c: c["encoder"].update(n_layers="many")]
)
def test_what_is_no_configuration(spoil):
    config = make_config()
    spoil(config)
    with pytest.raises(UserError, match=r"^m\.nemo: "):
        convert_config(config, "m.nemo")


def test_the_head_of_a_hybrid_is_its_ctc_branch():
    found = convert_config(make_config(target=HYBRID), "m.nemo")
    assert (found.head, found.model.head) == ("ctc_decoder.decoder_layers.0", "hybrid")


@pytest.mark.parametrize(
    ("section", "option", "value", "message"),
    [
        ("decoder", "normalization_mode", "layer", r"decoder\.normalization_mode layer"),
        ("decoder", "blank_as_pad", False, r"decoder\.blank_as_pad False"),
        (
            "decoder",
            "_target_",
            "x.StatelessTransducerDecoder",
            r"decoder\._target_ StatelessTransducerDecoder",
        ),
        ("joint", "_target_", "x.SampledRNNTJoint", r"joint\._target_ SampledRNNTJoint"),
        ("joint", "num_extra_outputs", 3, r"joint\.num_extra_outputs 3: .*there are 0 durations"),
        ("joint", "new_option", 3, r"joint\.new_option 3: .*does not know"),
        ("loss", "loss_name", "multiblank_rnnt", "loss with several blanks"),
        ("decoding", "big_blank_durations", [2, 4], "decoding with several blanks"),
        ("decoding", "durations", "many", "durations many: .*list of whole numbers"),
        ("prednet", "rnn_hidden_size", 16, r"decoder\.prednet\.rnn_hidden_size 16: .*only 8 is"),
        ("prednet", "new_option", 16, r"decoder\.prednet\.new_option 16"),
        ("jointnet", "activation", "gelu", r"joint\.jointnet\.activation gelu"),
        ("jointnet", "encoder_hidden", 17, r"joint\.jointnet\.encoder_hidden 17: .*only 16 is"),
    ],
)
def test_what_a_transducer_cannot_be_is_refused_by_name(section, option, value, message):
    config = make_config(target=TRANSDUCER)
    inner = {"prednet": config["decoder"]["prednet"], "jointnet": config["joint"]["jointnet"]}
    (config | inner)[section][option] = value
    with pytest.raises(UserError, match=f"^m\\.nemo: {message}"):
        convert_config(config, "m.nemo")

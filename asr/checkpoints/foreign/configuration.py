"""NeMo's model_config.yaml to our configuration. What cannot be exact here is refused by name.

Written from NeMo 3.0 (modules ConformerEncoder and AudioToMelSpectrogramPreprocessor). An option that is
not listed here is refused too: it may change what the model computes.
"""

from dataclasses import dataclass
from typing import Any

from asr.checkpoints.foreign.plain_yaml import read_yaml
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig, SubsamplingConfig
from asr.model.frames import FFT, HOP, SAMPLE_RATE, WINDOW
from asr.model.frontend import FrontendConfig
from asr.model.nemo_frontend import LOG_GUARD, PRE_EMPHASIS
from asr.model.transducer import TransducerConfig

Options = dict[str, Any]

# The last part of ``target``: our --head, and where the CTC head's weights are.
HEADS = {
    "EncDecCTCModelBPE": ("ctc", "decoder.decoder_layers.0"),
    "EncDecRNNTBPEModel": ("transducer", ""),
    "EncDecHybridRNNTCTCBPEModel": ("hybrid", "ctc_decoder.decoder_layers.0"),
}
_OTHERS = {
    "EncDecCTCModel": "a character vocabulary",
    "EncDecHybridRNNTCTCModel": "a character vocabulary",
    "EncDecRNNTModel": "a character vocabulary",
    "EncDecMultiTaskModel": "an attention decoder (Canary)",
    "EncDecHybridRNNTCTCBPEModelWithPrompt": "prompts",
}

# Options that change nothing in evaluation mode, or are read below.
_HARMLESS = {
    "encoder": """
        _target_ feat_in feat_out n_layers d_model n_heads ff_expansion_factor conv_kernel_size use_bias
        xscaling untie_biases subsampling subsampling_factor subsampling_conv_channels
        subsampling_conv_chunking_factor
        reduction_position pos_emb_max_len dropout dropout_pre_encoder dropout_emb dropout_att
        stochastic_depth_drop_prob stochastic_depth_mode stochastic_depth_start_layer att_context_probs
        global_tokens_spacing global_attn_separate use_pytorch_sdpa use_pytorch_sdpa_backends
        sync_max_audio_length
    """.split(),
    "preprocessor": """
        _target_ sample_rate window_size window_stride n_window_size n_window_stride features dither pad_to
        pad_value rng nb_augmentation_prob nb_max_freq stft_exact_pad stft_conv max_duration use_grads
        highfreq
    """.split(),
    "decoder": "_target_ prednet vocab_size random_state_sampling".split(),
    "decoder.prednet": """
        pred_hidden pred_rnn_layers dropout forget_gate_bias t_max weights_init_scale hidden_hidden_bias_scale
        rnn_hidden_size
    """.split(),
    "joint": """
        _target_ jointnet num_classes num_extra_outputs vocabulary log_softmax preserve_memory fuse_loss_wer
        fused_batch_size experimental_fuse_loss_wer masking_prob
    """.split(),
    "joint.jointnet": "encoder_hidden pred_hidden joint_hidden activation dropout".split(),
}
# Options of which only these values can be computed here.
_REQUIRED: dict[str, dict[str, tuple]] = {
    "encoder": {
        "self_attention_model": ("rel_pos",),
        "att_context_size": (None, [-1, -1], [[-1, -1]]),
        "att_context_style": ("regular",),
        "att_chunk_context_size": (None,),
        "global_tokens": (0,),
        "causal_downsampling": (False,),
        "conv_norm_type": ("batch_norm",),
        "conv_context_size": (None,),
        "conv_context_style": ("regular",),
        "reduction": (None,),
        "reduction_factor": (1,),
    },
    "preprocessor": {
        "window": ("hann",),
        "normalize": ("per_feature",),
        "n_fft": (FFT, None),
        "preemph": (PRE_EMPHASIS,),
        "lowfreq": (0,),
        "log": (True,),
        "log_zero_guard_type": ("add",),
        "log_zero_guard_value": (LOG_GUARD,),
        "frame_splicing": (1,),
        "exact_pad": (False,),
        "mag_power": (2,),
        "mel_norm": ("slaney",),
        "use_torchaudio": (False,),
    },
    "decoder": {"normalization_mode": (None,), "blank_as_pad": (True,)},
    "decoder.prednet": {},
    "joint": {},
    "joint.jointnet": {},
}


@dataclass(frozen=True)
class Imported:
    """What a configuration of NeMo's says.

    Args:
        model: the same in ours.
        head: name of the CTC head's layer among its weights; empty where there is none.
        projection: name of the joint network's last layer there; empty where there is none.
        use_bias: whether linear layers and convolutions of the blocks have biases.
        xscaling: whether the subsampling's output is multiplied by sqrt(D).
        about: where it comes from, in words.
    """

    model: ModelConfig
    head: str
    projection: str
    use_bias: bool
    xscaling: bool
    about: str


def parse_config(data: bytes, name: str, edges: str = "auto") -> Imported:
    """``convert_config`` of a YAML file's content."""
    try:
        config = read_yaml(data.decode())
    except (ValueError, RecursionError):
        raise UserError(f"{name}: not YAML of plain values") from None
    return convert_config(config, name, edges)


def convert_config(config: Options, name: str, edges: str = "auto") -> Imported:
    """NeMo's configuration to ours.

    Args:
        config: as in model_config.yaml.
        name: of its file, for errors.
        edges: new or old (asr/model/frames.py); auto takes those of the NeMo that saved the model.

    Raises:
        UserError: something in it cannot be computed exactly here; it is named.
    """
    if not isinstance(config, dict):
        raise UserError(f"{name}: not a configuration")
    reader = _Reader(name)
    target = str(config.get("target", "")).rpartition(".")[2]
    if target not in HEADS:
        why = _OTHERS.get(target, "neither a CTC model nor a transducer with word pieces")
        reader.refuse("target", target or "missing", why)
    heads, ctc = HEADS[target]
    if config.get("adapters"):
        reader.refuse("adapters", "present")
    tokenizer = reader.section(config, "tokenizer")
    if tokenizer.get("type") not in ("bpe", None):
        reader.refuse("tokenizer.type", tokenizer["type"], "only SentencePiece (bpe) is read")
    encoder = reader.checked(config, "encoder", "ConformerEncoder")
    features = reader.checked(config, "preprocessor", "AudioToMelSpectrogramPreprocessor")
    version = str(config.get("nemo_version", "of unknown version"))
    parts = {
        "encoder": _encoder(encoder, reader),
        "frontend": _frontend(features, _edges(version) if edges == "auto" else edges, reader),
    }
    projection = ""
    if heads != "ctc":
        parts["transducer"], projection = _transducer(config, parts["encoder"].dim, reader)
    try:
        model = ModelConfig("softmax", "relative", head=heads, **parts)
    except UserError as error:  # a number out of its bounds
        raise UserError(f"{name}: {error}") from None
    if reader.number(encoder, "feat_in") != model.frontend.mels:
        reader.refuse("encoder.feat_in", encoder["feat_in"], f"there are {model.frontend.mels} features")
    return Imported(
        model,
        ctc,
        projection,
        reader.flag(encoder, "use_bias", True),
        reader.flag(encoder, "xscaling", True),
        f"{target} of NeMo {version[:40]}",
    )


def _encoder(options: Options, reader: "_Reader") -> EncoderConfig:
    dim = reader.number(options, "d_model")
    if dim % 2:
        reader.refuse("encoder.d_model", dim, "only even ones are")
    if options.get("feat_out", -1) not in (-1, 0, None, dim):
        reader.refuse("encoder.feat_out", options["feat_out"], f"only -1 or {dim} is")
    kinds = {"striding": "full", "dw_striding": "depthwise"}
    kind = options.get("subsampling", "striding")
    if kind not in kinds:
        reader.refuse("encoder.subsampling", kind, f"only {' and '.join(kinds)} are")
    factor = reader.number(options, "subsampling_factor", 4)
    if factor not in (4, 8):
        reader.refuse("encoder.subsampling_factor", factor, "only 4 and 8 are")
    channels = options.get("subsampling_conv_channels", -1)
    channels = dim if channels == -1 else reader.number(options, "subsampling_conv_channels")
    kernel = reader.number(options, "conv_kernel_size", 31)
    if kernel % 2 == 0:
        reader.refuse("encoder.conv_kernel_size", kernel, "only odd ones are")
    return EncoderConfig(
        size="L",  # what follows decides
        dim=dim,
        layers=reader.number(options, "n_layers"),
        heads=reader.number(options, "n_heads", 4),
        kernel=kernel,
        expansion=reader.number(options, "ff_expansion_factor", 4),
        dropout=0.1,
        batch_norm="frozen",  # NeMo's statistics count padding, which no batch of ours has in them
        subsampling=SubsamplingConfig(kinds[kind], factor, channels),
    )


def _transducer(config: Options, dim: int, reader: "_Reader") -> tuple[TransducerConfig, str]:
    """Sizes, and the name of the joint network's last layer: dropout, if any, is one of its layers there."""
    decoder = reader.checked(config, "decoder", "RNNTDecoder")
    prednet = reader.checked_part(decoder, "decoder.prednet")
    joint = reader.checked(config, "joint", "RNNTJoint")
    jointnet = reader.checked_part(joint, "joint.jointnet")
    hidden = reader.number(prednet, "pred_hidden")
    if prednet.get("rnn_hidden_size", -1) not in (-1, 0, None, hidden):
        reader.refuse("decoder.prednet.rnn_hidden_size", prednet["rnn_hidden_size"], f"only {hidden} is")
    for option, size in (("encoder_hidden", dim), ("pred_hidden", hidden)):
        if jointnet.get(option, size) != size:
            reader.refuse(f"joint.jointnet.{option}", jointnet[option], f"only {size} is")
    activation = str(jointnet.get("activation")).lower()
    if activation not in ("relu", "tanh", "sigmoid"):
        reader.refuse(
            "joint.jointnet.activation", jointnet.get("activation"), "only relu, tanh and sigmoid are"
        )
    durations = _durations(config, reader)
    extra = joint.get("num_extra_outputs", 0)
    if extra != len(durations):
        reader.refuse("joint.num_extra_outputs", extra, f"there are {len(durations)} durations")
    sizes = TransducerConfig(
        hidden=hidden,
        layers=reader.number(prednet, "pred_rnn_layers"),
        joint=reader.number(jointnet, "joint_hidden"),
        dropout=_share(prednet.get("dropout")),
        activation=activation,
        durations=durations,
        most=_most(config, reader),
    )
    return sizes, f"joint.joint_net.{2 if jointnet.get('dropout') else 1}"


def _share(value: Any) -> float:
    """A dropout, which changes nothing in evaluation mode: what is none here is training's default."""
    return value if type(value) in (int, float) and 0 <= value < 0.99 else TransducerConfig().dropout


def _durations(config: Options, reader: "_Reader") -> tuple[int, ...]:
    """A TDT model's, from where NeMo takes them: the loss, or decoding."""
    loss, decoding = (reader.optional(config, name) for name in ("loss", "decoding"))
    for section, options in (("decoding", decoding), ("loss", loss)):
        if options.get("big_blank_durations") or options.get("loss_name") == "multiblank_rnnt":
            reader.refuse(section, "with several blanks", "only one is")
    found = decoding.get("durations") or ()
    if loss.get("loss_name") == "tdt":
        found = reader.optional(loss, "tdt_kwargs").get("durations")
    if not isinstance(found, (list, tuple)) or not all(type(frames) is int for frames in found):
        reader.refuse("durations", found, "a list of whole numbers is needed")
    return tuple(found)


def _most(config: Options, reader: "_Reader") -> int:
    """Pieces on a frame at most, which NeMo's greedy decoding takes from the file; 10 where it says none."""
    greedy = reader.optional(reader.optional(config, "decoding"), "greedy")
    most = greedy.get("max_symbols") or greedy.get("max_symbols_per_step")
    return reader.number({"decoding.greedy.max_symbols": most}, "decoding.greedy.max_symbols") if most else 10


def _frontend(options: Options, edges: str, reader: "_Reader") -> FrontendConfig:
    if options.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        reader.refuse("preprocessor.sample_rate", options["sample_rate"], f"only {SAMPLE_RATE} is")
    # Either in seconds or in samples.
    for name, default, samples in (("window_size", 0.02, WINDOW), ("window_stride", 0.01, HOP)):
        seconds, given = options.get(name, default), options.get(f"n_{name}")
        if seconds:
            if type(seconds) not in (int, float) or int(seconds * SAMPLE_RATE) != samples:
                reader.refuse(f"preprocessor.{name}", seconds, f"only {samples / SAMPLE_RATE} s is")
        elif given != samples:
            reader.refuse(f"preprocessor.n_{name}", given, f"only {samples} is")
    top = options.get("highfreq")
    if top is not None and type(top) not in (int, float):
        reader.refuse("preprocessor.highfreq", top)
    return FrontendConfig(
        kind="nemo",
        edges=edges,
        mels=reader.number(options, "features", 64),
        f_max=float(top or SAMPLE_RATE / 2),
    )


def _edges(version: str) -> str:
    """The edges of the NeMo that saved a model: new since 2.5 (its pull request 13827)."""
    numbers = version.split(".")
    if len(numbers) < 2 or not (numbers[0].isdigit() and numbers[1].isdigit()):
        return "old"  # only the first releases wrote none
    return "new" if (int(numbers[0]), int(numbers[1])) >= (2, 5) else "old"


class _Reader:
    """Reads a configuration that anyone may have written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def refuse(self, option: str, value: Any, why: str = "only its default is") -> None:
        raise UserError(f"{self.name}: {option} {str(value)[:60]}: cannot be computed exactly here ({why})")

    def section(self, config: Options, name: str) -> Options:
        found = config.get(name)
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise UserError(f"{self.name}: has no section {name}")
        return found

    def checked(self, config: Options, name: str, target: str) -> Options:
        """A section in which every option has a value that can be computed here."""
        found = self.section(config, name)
        has = str(found.get("_target_", target)).rpartition(".")[2]
        if has != target:
            self.refuse(f"{name}._target_", has, f"only {target} is")
        return self.checked_options(found, name)

    def checked_part(self, options: Options, name: str) -> Options:
        """As ``checked``, of a section within another; ``name`` has both names."""
        found = self.section(options, name.rpartition(".")[2])
        return self.checked_options(found, name)

    def optional(self, config: Options, name: str) -> Options:
        """A section of which nothing need be there."""
        return self.section(config, name) if config.get(name) is not None else {}

    def checked_options(self, found: Options, name: str) -> Options:
        """Raises UserError for an option that has another value than can be computed here."""
        if "adapter" in found:
            self.refuse(f"{name}.adapter", "present")
        for option, value in found.items():
            good = _REQUIRED[name].get(option)
            if good is None and option not in _HARMLESS[name]:
                self.refuse(f"{name}.{option}", value, "an option that this import does not know")
            if good is not None and not any(type(value) is type(one) and value == one for one in good):
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value in good:
                    continue  # 2.0 for 2
                self.refuse(f"{name}.{option}", value, f"only {' or '.join(map(str, good))} is")
        return found

    def number(self, options: Options, name: str, default: int | None = None) -> int:
        value = options.get(name, default)
        if type(value) is not int or not 0 < value < 1_000_000:
            raise UserError(f"{self.name}: {name} {str(value)[:60]}: a positive number is needed")
        return value

    def flag(self, options: Options, name: str, default: bool) -> bool:
        value = options.get(name, default)
        if type(value) is not bool:
            raise UserError(f"{self.name}: {name} {str(value)[:60]}: true or false is needed")
        return value

"""NeMo's Conformer-CTC written down plainly under its own names: random models, their files, and what they
compute for one utterance in float64. No code is shared with the recipe; formulas from NeMo 3.0's sources."""

import io
import math
import tarfile

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from asr.data.tokenizer import Tokenizer, train_tokenizer

TOKENIZER = train_tokenizer(
    ["the cat sat on the mat", "a cat and a hat", "that hat sat on a cat's mat"] * 5, 20
)
PIECES = Tokenizer(TOKENIZER).pieces
TRANSDUCER = "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel"
HYBRID = "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"


def make_config(
    target="nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE", mels=80, transducer=None, **encoder
):
    """A small model's configuration, with options of the encoder."""
    return make_transducer_config(target, **transducer or {}) | {
        "target": target,
        "nemo_version": "3.0.0",
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": mels,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": mels,
            "feat_out": -1,
            "n_layers": 2,
            "d_model": 16,
            "subsampling": "striding",
            "subsampling_factor": 4,
            "subsampling_conv_channels": -1,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "untie_biases": True,
            "conv_kernel_size": 5,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            **encoder,
        },
        "tokenizer": {"type": "bpe", "model_path": "nemo:0123_tokenizer.model"},
    }


def make_transducer_config(target, layers=1, activation="relu", dropout=0.2, durations=(), most=10):
    """The sections of a transducer's, of a hybrid's too; nothing for other models."""
    if "RNNT" not in target:
        return {}
    tdt = {"loss_name": "tdt", "tdt_kwargs": {"durations": list(durations), "sigma": 0.05, "omega": 0.1}}
    return {
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 8, "pred_rnn_layers": layers, "t_max": None, "dropout": dropout},
            "vocab_size": PIECES,
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {
                "joint_hidden": 12,
                "activation": activation,
                "dropout": dropout,
                "encoder_hidden": 16,
                "pred_hidden": 8,
            },
            "num_classes": PIECES,
            "num_extra_outputs": len(durations),
            "vocabulary": ["a"] * PIECES,
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": most}},
        "loss": tdt if durations else {"loss_name": "default"},
    }


def make_weights(config, seed=0, pieces=PIECES) -> dict[str, Tensor]:
    """Random weights, biases and batch-norm statistics by NeMo's names."""
    generator = torch.Generator().manual_seed(seed)
    e, mels = config["encoder"], config["preprocessor"]["features"]
    dim, inner = e["d_model"], e["d_model"] * e["ff_expansion_factor"]
    channels = dim if e["subsampling_conv_channels"] == -1 else e["subsampling_conv_channels"]
    weights: dict[str, Tensor] = {}

    def add(name, *shape, fan=1, bias=0, middle=0.0):
        weights[f"{name}.weight"] = middle + torch.randn(shape, generator=generator) / math.sqrt(fan)
        if bias:
            weights[f"{name}.bias"] = 0.3 * torch.randn(bias, generator=generator)

    strides = int(math.log2(e["subsampling_factor"]))
    add("encoder.pre_encode.conv.0", channels, 1, 3, 3, fan=9, bias=channels)
    for i in range(strides - 1):
        if e["subsampling"] == "striding":
            add(
                f"encoder.pre_encode.conv.{2 * i + 2}",
                channels,
                channels,
                3,
                3,
                fan=9 * channels,
                bias=channels,
            )
        else:
            add(f"encoder.pre_encode.conv.{3 * i + 2}", channels, 1, 3, 3, fan=9, bias=channels)
            add(f"encoder.pre_encode.conv.{3 * i + 3}", channels, channels, 1, 1, fan=channels, bias=channels)
    bins = mels
    for _ in range(strides):
        bins = math.ceil(bins / 2)
    add("encoder.pre_encode.out", dim, channels * bins, fan=channels * bins, bias=dim)
    shared = None
    for i in range(e["n_layers"]):
        t = f"encoder.layers.{i}."
        b = lambda n: n if e.get("use_bias", True) else 0  # noqa: E731
        for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            add(f"{t}norm_{norm}", dim, fan=30, bias=dim, middle=1.0)
        for k in (1, 2):
            add(f"{t}feed_forward{k}.linear1", inner, dim, fan=dim, bias=b(inner))
            add(f"{t}feed_forward{k}.linear2", dim, inner, fan=inner, bias=b(dim))
        for name in ("q", "k", "v", "out"):
            add(f"{t}self_attn.linear_{name}", dim, dim, fan=dim / 4, bias=b(dim))
        add(f"{t}self_attn.linear_pos", dim, dim, fan=dim / 4)
        if shared is None or e["untie_biases"]:
            shared = [torch.randn(e["n_heads"], dim // e["n_heads"], generator=generator) for _ in "uv"]
        weights[f"{t}self_attn.pos_bias_u"], weights[f"{t}self_attn.pos_bias_v"] = shared
        add(f"{t}conv.pointwise_conv1", 2 * dim, dim, 1, fan=dim, bias=b(2 * dim))
        add(f"{t}conv.depthwise_conv", dim, 1, e["conv_kernel_size"], fan=5, bias=b(dim))
        add(f"{t}conv.batch_norm", dim, fan=30, bias=dim, middle=1.0)
        weights[f"{t}conv.batch_norm.running_mean"] = 0.3 * torch.randn(dim, generator=generator)
        weights[f"{t}conv.batch_norm.running_var"] = 0.5 + torch.rand(dim, generator=generator)
        weights[f"{t}conv.batch_norm.num_batches_tracked"] = torch.tensor(7)
        add(f"{t}conv.pointwise_conv2", dim, dim, 1, fan=dim, bias=b(dim))
    if head_of(config):
        add(head_of(config), pieces + 1, dim, 1, fan=dim / 9, bias=pieces + 1)
    if "joint" in config:
        prednet, jointnet = config["decoder"]["prednet"], config["joint"]["jointnet"]
        hidden, joint = prednet["pred_hidden"], jointnet["joint_hidden"]
        add("decoder.prediction.embed", pieces + 1, hidden)
        weights["decoder.prediction.embed.weight"][pieces] = 0
        for layer in range(prednet["pred_rnn_layers"]):
            for side in ("ih", "hh"):
                name = f"decoder.prediction.dec_rnn.lstm.weight_{side}_l{layer}"
                weights[name] = torch.randn(4 * hidden, hidden, generator=generator) / hidden**0.25
                weights[name.replace("weight", "bias")] = 0.3 * torch.randn(4 * hidden, generator=generator)
        add("joint.enc", joint, dim, fan=dim / 4, bias=joint)
        add("joint.pred", joint, hidden, fan=hidden / 16, bias=joint)
        outputs = pieces + 1 + config["joint"]["num_extra_outputs"]
        add(projection_of(config), outputs, joint, fan=joint / 9, bias=outputs)
        weights[f"{projection_of(config)}.bias"][pieces] += 2  # blanks and pieces both come
    filters = melscale_fbanks(257, 0, 8000, mels, 16000, norm="slaney", mel_scale="slaney")
    weights["preprocessor.featurizer.window"] = torch.hann_window(400, periodic=False)
    weights["preprocessor.featurizer.fb"] = filters.T[None]
    return weights


def head_of(config) -> str:
    if config["target"] == TRANSDUCER:
        return ""
    return "ctc_decoder.decoder_layers.0" if "Hybrid" in config["target"] else "decoder.decoder_layers.0"


def projection_of(config) -> str:
    return "joint.joint_net.2" if config["joint"]["jointnet"]["dropout"] else "joint.joint_net.1"


def write_nemo(path, config, weights, tokenizer=TOKENIZER, mode="w", folder="./"):
    """A .nemo file as NeMo writes it."""
    content = io.BytesIO()
    torch.save(weights, content)
    members = {
        "model_config.yaml": yaml.safe_dump(config).encode(),
        "model_weights.ckpt": content.getvalue(),
        "0123_tokenizer.model": tokenizer,
    }
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            add_member(archive, folder + name, data)
    return path


def add_member(archive, name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def log_probs(weights, config, waveform: Tensor, edges: str) -> Tensor:
    """waveform (S,) to log-probabilities (N, pieces + 1), the blank last; all in float64."""
    x = encode(weights, config, waveform, edges)
    head = head_of(config)
    weight, bias = weights[f"{head}.weight"].double(), weights[f"{head}.bias"].double()
    return F.log_softmax(F.conv1d(x.T[None], weight, bias)[0].T, -1)


def encode(weights, config, waveform: Tensor, edges: str) -> Tensor:
    """waveform (S,) to encoded frames (N, D) in float64."""
    w = {name: value.double() for name, value in weights.items()}
    e = config["encoder"]
    x = _features(waveform.double(), w, edges)
    x = _subsample(x[None, None], w, e)
    if e["xscaling"]:
        x = x * math.sqrt(e["d_model"])
    for i in range(e["n_layers"]):
        x = _layer(x, {n.removeprefix(f"encoder.layers.{i}."): v for n, v in w.items()}, e)
    return x


def transducer_greedy(weights, config, waveform: Tensor, edges: str) -> tuple[list[int], Tensor]:
    """Pieces that a transducer says, frame by frame and piece by piece, and the logits on the way."""
    w = {name: value.double() for name, value in weights.items()}
    x, blank = encode(weights, config, waveform, edges), len(w["decoder.prediction.embed.weight"]) - 1
    durations = config["loss"].get("tdt_kwargs", {}).get("durations", [])
    activation = getattr(torch, config["joint"]["jointnet"]["activation"])
    most = config["decoding"]["greedy"]["max_symbols"]
    said, frame, here, logits = [], 0, 0, []
    while frame < len(x):
        predicted = _predict([blank, *said], w, config["decoder"]["prednet"]["pred_rnn_layers"])
        hidden = F.linear(x[frame], w["joint.enc.weight"], w["joint.enc.bias"])
        hidden = activation(hidden + F.linear(predicted, w["joint.pred.weight"], w["joint.pred.bias"]))
        last = projection_of(config)
        found = F.linear(hidden, w[f"{last}.weight"], w[f"{last}.bias"])
        logits.append(found)
        piece = int(found[: blank + 1].argmax())
        jump = durations[int(found[blank + 1 :].argmax())] if durations else int(piece == blank)
        if piece == blank:
            jump = max(jump, 1)
        else:
            said.append(piece)
            here += 1
            jump = max(jump, int(here == most))
        frame, here = frame + jump, 0 if jump else here
    return said, torch.stack(logits)


def _predict(pieces: list[int], w, layers: int) -> Tensor:
    """An LSTM by its formula: what it gives after the last piece."""
    rows = list(w["decoder.prediction.embed.weight"][pieces])
    for layer in range(layers):
        name = "decoder.prediction.dec_rnn.lstm.{}_{}_l" + str(layer)
        h = c = torch.zeros_like(rows[0])
        for n, row in enumerate(rows):
            gates = F.linear(row, w[name.format("weight", "ih")], w[name.format("bias", "ih")])
            gates = gates + F.linear(h, w[name.format("weight", "hh")], w[name.format("bias", "hh")])
            enter, forget, new, leave = gates.chunk(4)
            c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
            h = rows[n] = leave.sigmoid() * c.tanh()
    return rows[-1]


def _features(x: Tensor, w, edges: str) -> Tensor:
    """(S,) to (T, mels)."""
    emphasised = x.clone()
    emphasised[1:] -= 0.97 * x[:-1]
    samples = len(x)
    if edges == "old":
        frames = samples // 160 + 1
        centred = F.pad(emphasised[None], (256, 256), mode="reflect")[0]
    else:
        frames = samples // 160
        centred = F.pad(emphasised, (256, 256))
    window = F.pad(w["preprocessor.featurizer.window"], (56, 56))
    cut = torch.stack([centred[160 * t : 160 * t + 512] * window for t in range(frames)])
    power = torch.fft.rfft(cut).abs().square()
    logs = torch.log(power @ w["preprocessor.featurizer.fb"][0].T + 2**-24)
    return (logs - logs.mean(0)) / (logs.std(0, correction=1) + 1e-5)


def _subsample(x: Tensor, w, e) -> Tensor:
    """(1, 1, T, mels) to (N, D)."""
    name = "encoder.pre_encode.conv."
    x = F.relu(F.conv2d(x, w[f"{name}0.weight"], w[f"{name}0.bias"], 2, 1))
    place = 2
    while f"{name}{place}.weight" in w:
        weight, bias = w[f"{name}{place}.weight"], w[f"{name}{place}.bias"]
        x = F.conv2d(x, weight, bias, 2, 1, groups=x.shape[1] // weight.shape[1])
        place += 1
        if e["subsampling"] == "dw_striding":
            x = F.conv2d(x, w[f"{name}{place}.weight"], w[f"{name}{place}.bias"])
            place += 1
        x, place = F.relu(x), place + 1
    x = x.transpose(1, 2).flatten(2)[0]
    return F.linear(x, w["encoder.pre_encode.out.weight"], w["encoder.pre_encode.out.bias"])


def _layer(x: Tensor, w, e) -> Tensor:
    def linear(name, y):
        return F.linear(y, w[f"{name}.weight"].flatten(1), w.get(f"{name}.bias"))

    def norm(name, y):
        return F.layer_norm(y, y.shape[-1:], w[f"norm_{name}.weight"], w[f"norm_{name}.bias"], 1e-5)

    def feed_forward(k, y):
        return linear(f"feed_forward{k}.linear2", F.silu(linear(f"feed_forward{k}.linear1", y)))

    x = x + 0.5 * feed_forward(1, norm("feed_forward1", x))
    x = x + linear("self_attn.linear_out", _attend(norm("self_att", x), linear, w, e["n_heads"]))
    y = F.glu(linear("conv.pointwise_conv1", norm("conv", x)), -1)
    bias, kernel = w.get("conv.depthwise_conv.bias"), e["conv_kernel_size"]
    y = F.conv1d(y.T[None], w["conv.depthwise_conv.weight"], bias, padding=kernel // 2, groups=len(y.T))[0].T
    scale = w["conv.batch_norm.weight"] / (w["conv.batch_norm.running_var"] + 1e-5).sqrt()
    y = (y - w["conv.batch_norm.running_mean"]) * scale + w["conv.batch_norm.bias"]
    x = x + linear("conv.pointwise_conv2", F.silu(y))
    x = x + 0.5 * feed_forward(2, norm("feed_forward2", x))
    return norm("out", x)


def _attend(x: Tensor, linear, w, heads: int) -> Tensor:
    """Transformer-XL's attention by its formula: a sinusoid for every pair of frames."""
    n, dim = x.shape
    q, k, v = (linear(f"self_attn.linear_{name}", x).view(n, heads, -1) for name in "qkv")
    offset = (torch.arange(n)[:, None] - torch.arange(n)).double()
    rate = torch.exp(torch.arange(0, dim, 2).double() * -(math.log(10000.0) / dim))
    sinusoid = torch.stack(((offset[..., None] * rate).sin(), (offset[..., None] * rate).cos()), -1).flatten(
        2
    )
    r = F.linear(sinusoid, w["self_attn.linear_pos.weight"]).view(n, n, heads, -1)
    scores = torch.einsum("ihd,jhd->hij", q + w["self_attn.pos_bias_u"], k)
    scores = scores + torch.einsum("ihd,ijhd->hij", q + w["self_attn.pos_bias_v"], r)
    weights = (scores / math.sqrt(dim // heads)).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, v).flatten(1)

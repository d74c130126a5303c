"""The training program's configuration. The dataclasses' docstrings are its --help text.

A YAML file given with --config holds the same names; the command line behind it overrides it. Options of a
mechanism that is not chosen are refused, but a file may hold those of several, for --attention to choose.
"""

import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from asr.attention import ATTENTIONS, parse_attention
from asr.errors import UserError
from asr.model.config import HEADS, ModelConfig, check_ranges, model_ranges, model_to_dict
from asr.model.conformer import SIZES, EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.transducer import TransducerConfig
from asr.training.beginning import model_to_begin_from

OF_THE_RUN = ("attention", "positions", "head", "out", "resume", "init")


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Args:
        folder: folder with the manifests, SPLIT.jsonl each (docs/own_corpus.md: or other toolkits').
        train: splits to train on.
        dev: split to validate on while training.
        tokenizer: SentencePiece model made by python -m asr.data.tokenizer.
        max_seconds: longer utterances are left out of training (and listed).
        join: train on consecutive utterances joined, with a short pause between two, each to a length drawn
            evenly from 0 to so many seconds; for long recordings, and best where a manifest's neighbours are
            by one speaker. 0 leaves them single.
        workers: processes that read audio beside the training process; 0 reads in it.
    """

    folder: str = "data/demo"
    train: list[str] = field(default_factory=lambda: ["train"])
    dev: str = "dev"
    tokenizer: str = "data/demo/tokenizer.model"
    max_seconds: float = 20.0
    join: float = 0.0
    workers: int = 0


APART = ("distil_modules", "distil_stages")  # which go alone


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        steps: optimiser steps in all.
        seconds: audio in a batch, padding included, per device.
        accumulate: batches per optimiser step and device.
        step_seconds: audio in an optimiser step, padding included, over all devices and accumulated batches,
            in the place of accumulate, which then follows: a whole multiple of seconds times the devices. A
            step then holds the same batches on any number of GPUs. 0: accumulate says it.
        nonspeech: share of generated sounds without speech (silence, noise, hum, clicks, tones) in the audio,
            with empty transcripts, so that the model says nothing to them; 0 for none.
        optimiser: adamw, or muon, which moves matrices by their gradient's momentum made orthogonal (and has
            adamw for all else), in steps as long. It wanted half of them where it was measured (RESULTS.md).
        peak_lr: highest learning rate.
        warmup: steps from 0 to the highest learning rate.
        schedule: after the warm-up, cosine (to 0 at the last step) or noam (inverse square root).
        weight_decay: not applied to biases and norms.
        clip: greatest gradient norm.
        average: decay of the exponential moving average of the weights, with which is validated and
            decoded; 0 for none.
        teacher: checkpoint, exported folder or FILE.nemo, with the same tokenizer and frame rate, to learn
            from by the six losses named distil; none where it is empty.
        ctc: weight of CTC on the transcripts, where there is a CTC head. With a teacher, utterances without a
            transcript are trained on too, by what it says of them; with 0, and no transducer, none is read.
        transducer: weight of the transducer's loss; 1 where there is a transducer and nothing is said.
        freeze: parts that stay as --init gives them, without dropout, while the others learn: [encoder], or
            [encoder,ctc] for a transducer beside a trained CTC model.
        distil_posteriors: weight of the divergence of CTC posteriors from the teacher's, in nats a frame.
        distil_encoder: weight of the mean squared difference of the last layer from the teacher's.
        distil_blocks: weight of the relative squared error of what goes into the first block and comes out
            of each, in the student's own pass, from the teacher's at the same share of its depth; for a
            student of the teacher's dimension, and as many layers or fewer. It puts together what
            distil_modules or distil_stages taught.
        distil_stages: weight of the relative squared error of the subsampling and of each of the student's
            blocks, given the teacher's frames at the same share of its depth, and of the CTC head; for a
            student of the teacher's dimension, and at most half its layers, that begins from nothing. It goes
            alone (with ctc 0), and trains all stages side by side; distil_blocks puts them together.
        distil_attention: weight of the relative squared error of each layer's attention, given the teacher's
            input to it; for a student of the teacher's dimension and layers. Alone (with ctc 0) it trains the
            attention layers side by side and nothing else, which is cheaper.
        distil_modules: weight of the relative squared error of every module (subsampling, feed-forwards,
            norms, attention, convolutions, CTC head), given the teacher's input to it; for a student of the
            teacher's dimension, layers and features that begins from nothing. It goes alone (with ctc 0),
            and trains all of them side by side; then a second training puts them together.
        taught_modules: kinds of modules that distil_modules is about, the others staying as --init gives
            them: subsampling, feed_forward, attention, convolution, norm, ctc; []: all.
        shuffle_minutes: minutes of audio whose frames at the teacher's modules are kept (some 90 MB each for
            a model of 13 M parameters), from which feed-forwards, convolutions, norms and the CTC head draw
            theirs in distil_modules: a batch's own frames are of few utterances and much alike, and what is
            drawn from half an hour allows far higher learning rates. 0: they have the batch's own. A
            resumed run starts with none kept.
        teacher_memory: folder to keep in what the teacher says of each utterance, and to recall it from, so
            that it hears none twice, in this training or another: some 0.2 GB an hour of speech, 0.5 with
            distil_blocks or distil_stages. Only right where it hears them alike each time: with
            --frontend.speeds [1.0]. Empty: it hears all it is asked about.
        distil_masks: whom SpecAugment masks: the student, or both.
        splice: share of batches whose utterances are cut into pieces of 0.5 to 3 s, put together anew across
            the batch, with the teacher alone to say what is heard; for a small corpus, whose sentences would
            be learnt by heart.
        distil_start: weights (the attention starts from those that it has) or nearest (with each head's
            queries scaled and shifted so that each layer's starts nearest to the teacher's; MALA and InLine
            gain most).
        consistency: weight of the consistency between two SpecAugment views of each batch (CR-CTC,
            0.2 in its paper); 0 for none. A step then passes the batch twice.
        chunks: for streams: chunks in encoded frames, one of which is drawn for a batch: [4,8,16,32], say. A
            frame then sees its chunk and what comes before it. []: every batch has the full context. With
            distil_attention alone, the teacher hears in the same chunk; else it has the full context.
        chunk_share: of the batches that go in chunks; the others have the full context.
        intermediate: weight of a second CTC loss, on the middle block (0.3 in its paper); 0 for none.
        variational_noise: deviation of the noise on the transducer's weights while gradients are computed; 0
            for none (the Conformer paper has some, and does not say how much; SpecAugment's LAS had 0.075).
        skip_limit: the run ends after so many steps in a row whose gradient is not finite; such steps
            are skipped and listed in skipped.jsonl.
        validate_every: steps between validations, each of which writes a checkpoint.
        checkpoint_minutes: greatest age of the last checkpoint, where validations are further apart; 0 for
            any.
        keep: validations whose checkpoints stay beside last and best, as step-N.ckpt, for python -m
            asr.checkpoints average.
        seed: of weights, batches and augmentation.
        precision: auto (bf16 where the GPU or CPU has it, else fp32), fp32 or bf16. Batch norm, CTC and
            attention's eager core are in fp32 in any case; its fused cores follow the precision.
        kernels: attention core on a GPU: auto (fused kernels for linear, mala and inline, which under bf16
            read bf16, multiply in TF32 and sum in fp32, and for softmax under bf16, PyTorch's flash or
            memory-efficient kernel, which multiplies in bf16; each once it agrees with eager PyTorch on
            the first batch), eager (fp32 throughout), or fused (an error where they cannot run).
        compile: put the encoder's blocks through torch.compile, for a GPU: fewer and larger kernels, after
            a minute or so at the start. Not worth it on a CPU.
        accelerator: auto, cpu or gpu.
        devices: GPUs of this machine, or processes on a CPU.
        nodes: machines; start train.py on each with torchrun.
    """

    steps: int = 100_000
    seconds: float = 1200.0
    accumulate: int = 1
    step_seconds: float = 0.0
    nonspeech: float = 0.0
    optimiser: Literal["adamw", "muon"] = "adamw"
    peak_lr: float = 1.5e-3
    warmup: int = 10_000
    schedule: Literal["cosine", "noam"] = "noam"
    weight_decay: float = 1e-3
    clip: float = 5.0
    average: float = 0.999
    teacher: str = ""
    ctc: float = 1.0
    transducer: float | None = None
    freeze: list[Literal["encoder", "ctc", "transducer"]] = field(default_factory=list)
    distil_posteriors: float = 0.0
    distil_encoder: float = 0.0
    distil_blocks: float = 0.0
    distil_stages: float = 0.0
    distil_attention: float = 0.0
    distil_modules: float = 0.0
    taught_modules: list[
        Literal["subsampling", "feed_forward", "attention", "convolution", "norm", "ctc"]
    ] = field(default_factory=list)
    shuffle_minutes: float = 0.0
    teacher_memory: str = ""
    distil_masks: Literal["student", "both"] = "student"
    splice: float = 0.0
    distil_start: Literal["weights", "nearest"] = "weights"
    consistency: float = 0.0
    chunks: list[int] = field(default_factory=list)
    chunk_share: float = 0.5
    intermediate: float = 0.0
    variational_noise: float = 0.0
    skip_limit: int = 20
    validate_every: int = 2_000
    checkpoint_minutes: float = 30.0
    keep: int = 0
    seed: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    kernels: Literal["auto", "eager", "fused"] = "auto"
    compile: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1

    @property
    def distils(self) -> bool:
        """Whether a loss wants a teacher."""
        return self.distil_posteriors + self.distils_frames + self.distils_layers > 0

    @property
    def distils_frames(self) -> float:
        """The weights of what is learnt from frames of a teacher's own pass."""
        return self.distil_encoder + self.distil_blocks

    @property
    def distils_layers(self) -> float:
        """The weights of what is learnt layer by layer."""
        return self.distil_attention + self.distils_apart

    @property
    def distils_apart(self) -> float:
        """The weights of what is learnt on a teacher's own frames by all parts of a student, side by side."""
        return sum(getattr(self, name) for name in APART)

    @property
    def scales_teacher(self) -> bool:
        """Whether the teacher's frames are scaled for what is learnt from them (unit_streams.py).

        Losses of blocks suit any scale; attention that begins as the teacher's wants that of its weights.
        """
        as_it_is = self.distil_attention > 0 or self.distil_start == "nearest"
        return self.distils_apart > 0 or (self.distil_blocks > 0 and not as_it_is)

    @property
    def uses_head(self) -> bool:
        """Whether a loss wants the CTC head's log-probabilities."""
        return self.ctc + self.distil_posteriors > 0

    @property
    def uses_transcripts(self) -> bool:
        """Whether a loss wants them."""
        return self.ctc + (self.transducer or 0) > 0

    @property
    def uses_encoder(self) -> bool:
        """Whether a loss wants the student's own last layer, and not its attention layers alone."""
        return self.uses_head or self.uses_transcripts or self.distils_frames > 0


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    out: Path
    resume: str
    init: str = ""
    dry_run: bool = False


def parse_config(argv: list[str] | None = None) -> Config:
    """Command line to configuration; raises UserError, one line, for what cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    try:
        given = parser.parse_args(argv, defaults=False)
        other = model_to_begin_from(given.get("init", ""), given.get("resume", ""), Path(given.out))
        if other:
            parser.set_defaults(_defaults_from(other, given))
        parsed = parser.instantiate(parser.parse_args(argv))
    except UserError:
        raise
    except Exception as error:  # jsonargparse lets several kinds through, all about the input
        raise UserError(_first_line(error)) from None
    _check_order(argv, parsed)
    config = _to_config(parsed)
    _check_mechanisms(argv, given, config.model.attention)
    _check_effect(argv, config)
    _check_heads(given, config.model.head)
    return config


def _defaults_from(other: ModelConfig, given: Namespace) -> dict[str, Any]:
    """What the model to begin from gives in the place of the parser's defaults."""
    plain = model_to_dict(other)
    sections = {name: plain.pop(name) for name in ("encoder", "frontend", "transducer")}
    sections |= plain.pop("options")
    if given.get("attention", other.attention) != other.attention:
        del plain["positions"]  # which another mechanism need not take
    if given.get("encoder.size"):  # says them too
        sections["encoder"] = {k: v for k, v in sections["encoder"].items() if k not in SIZES["S"]}
    return plain | {f"{name}.{k}": v for name, section in sections.items() for k, v in section.items()}


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that --config reads."""
    import yaml

    plain = model_to_dict(config.model)
    plain |= {name: options for name, options in plain.pop("options").items() if options}
    if "transducer" not in config.model.heads:
        del plain["transducer"]
    plain |= {"data": asdict(config.data), "training": asdict(config.training)}
    if config.training.step_seconds:
        del plain["training"]["accumulate"]  # which follows, and is another on other devices
    plain |= {"out": str(config.out), "resume": config.resume, "init": config.init}
    return yaml.safe_dump(plain, sort_keys=False)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="train.py",
        description="Train a Conformer with CTC, a transducer or both. Start from a recipe's YAML and "
        "override what you like: train.py --config recipes/demo/conformer_xs.yaml --attention softmax",
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    names = ", ".join(ATTENTIONS)
    parser.add_argument(
        "--attention",
        type=str,
        default="mala",
        help=f"{names}; or several with commas, one a layer, repeated over the layers: mala,mala,softmax",
    )
    parser.add_argument(
        "--positions",
        type=str,
        default="auto",
        help="auto: each mechanism's own default; relative (softmax only), rotary, sinusoid, none",
    )
    parser.add_argument(
        "--head",
        type=Literal[HEADS],
        default="ctc",
        help="what reads the encoder: ctc, transducer, or hybrid, which is both (losses added, each with its "
        "weight --training.ctc, --training.transducer)",
    )
    parser.add_argument("--out", type=str, required=True, help="folder of this run")
    parser.add_argument(
        "--resume",
        type=str,
        default="",
        help="checkpoint to go on from; 'auto' takes the last one in --out, if there is one",
    )
    parser.add_argument(
        "--init",
        type=str,
        default="",
        help="checkpoint of another run, exported folder or FILE.nemo to start from: its weights, all that "
        "this model has too (of heads the rows of pieces that both know), and its attention, encoder and "
        "frontend options where none is given",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="time a few steps, print parameters, hours, memory and projected time, and leave nothing",
    )
    sections = {"encoder": EncoderConfig, "frontend": FrontendConfig, "transducer": TransducerConfig}
    sections |= {name: cls.Options for name, cls in ATTENTIONS.items() if fields(cls.Options)}
    sections |= {"data": DataConfig, "training": TrainingConfig}
    for name, section in sections.items():
        parser.add_class_arguments(section, name)
    return parser


def _check_order(argv: list[str], parsed: Namespace) -> None:
    """Raise UserError where a file named later replaces what the command line says of the run as a whole.

    Options of sections may be there to be replaced: recipes/mini_librispeech has a file for a first training
    behind the user's options, which are meant for the second.
    """
    said, replaced, file = {}, {}, ""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else following
        if word.startswith("--config"):
            said, replaced, file = {}, replaced | said, value
        elif word.startswith("--") and name in OF_THE_RUN:
            said[name] = value
            replaced.pop(name, None)
    for name, value in replaced.items():
        if (found := getattr(parsed, name)) != value:
            raise UserError(
                f"--{name} {value}: --config {file} behind it says {found}; options are taken in order, name "
                "the file first"
            )


def _check_mechanisms(argv: list[str], given: Namespace, attention: str) -> None:
    """Raise UserError for options of a mechanism that is not among the chosen: they would be ignored.

    A YAML file may hold options of several mechanisms where --attention on the command line chooses: then
    nobody takes the others' to be in force.

    Args:
        argv: command line.
        given: what is on it and in the files that it names, without defaults.
        attention: what is chosen.
    """
    chosen = parse_attention(attention)
    on_command_line = _options_in(argv)
    for option in on_command_line:
        mechanism = option.partition(".")[0]
        if mechanism in ATTENTIONS and mechanism not in chosen:
            raise UserError(f"--{option}: an option of {mechanism}, but --attention is {attention}")
    others = [name for name in ATTENTIONS if name not in chosen and given.get(name) is not None]
    if others and "attention" not in on_command_line:
        files = " ".join(str(path) for path in given.config or [])
        raise UserError(
            f"--config {files}: holds options of {', '.join(others)}, but the attention is {attention}; take "
            "them out, or choose with --attention on the command line"
        )


def _check_effect(argv: list[str], config: Config) -> None:
    """Raise UserError for options on the command line that nothing would look at."""
    wants = {} if config.training.chunks else {"training.chunk_share": "--training.chunks"}
    if config.model.frontend.kind != "nemo":
        wants["frontend.edges"] = "--frontend.kind nemo"
    for name, options in config.model.options.items():
        if getattr(options, "forget", "") == "none":
            wants |= dict.fromkeys((f"{name}.half_life", f"{name}.spread"), f"--{name}.forget")
    for option in _options_in(argv):
        if option in wants:
            raise UserError(f"--{option}: wants {wants[option]}, or it has no effect")


def _options_in(argv: list[str]) -> list[str]:
    """The names of the options on a command line."""
    return [word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")]


def _to_config(parsed: Namespace) -> Config:
    options = {name: getattr(parsed, name, None) for name in parse_attention(parsed.attention)}
    model = ModelConfig(
        parsed.attention,
        parsed.positions,
        options,
        parsed.encoder,
        parsed.frontend,
        parsed.head,
        parsed.transducer if parsed.head != "ctc" else TransducerConfig(),  # not that of --init
    )
    training = parsed.training
    if "ctc" not in model.heads:
        training = replace(training, ctc=0.0)
    if "transducer" not in model.heads:
        training = replace(training, transducer=0.0)
    elif training.transducer is None:
        training = replace(training, transducer=1.0)
    training = replace(training, validate_every=min(training.validate_every, training.steps))
    checks = model_ranges(model) | {
        "--data.max_seconds": parsed.data.max_seconds > 0,
        "--data.join": 0 <= parsed.data.join < math.inf,
        "--data.workers": parsed.data.workers >= 0,
        "--training.steps": training.steps > 0,
        "--training.seconds": 0 < training.seconds < math.inf,
        "--training.accumulate": training.accumulate > 0,
        "--training.step_seconds": 0 <= training.step_seconds < math.inf,
        "--training.nonspeech": 0 <= training.nonspeech < 1,
        "--training.peak_lr": training.peak_lr > 0,
        "--training.warmup": training.warmup >= 0,
        "--training.weight_decay": 0 <= training.weight_decay < math.inf,
        "--training.clip": training.clip > 0,
        "--training.seed": 0 <= training.seed < 2**32,
        "--training.average": 0 <= training.average < 1,
        "--training.ctc": 0 <= training.ctc < math.inf,
        "--training.transducer": 0 <= training.transducer < math.inf,
        "--training.distil_posteriors": 0 <= training.distil_posteriors < math.inf,
        "--training.distil_encoder": 0 <= training.distil_encoder < math.inf,
        "--training.distil_blocks": 0 <= training.distil_blocks < math.inf,
        "--training.distil_stages": 0 <= training.distil_stages < math.inf,
        "--training.splice": 0 <= training.splice <= 1,
        "--training.distil_attention": 0 <= training.distil_attention < math.inf,
        "--training.distil_modules": 0 <= training.distil_modules < math.inf,
        "--training.shuffle_minutes": training.shuffle_minutes == 0
        or 0.1 <= training.shuffle_minutes < math.inf,
        "--training.consistency": 0 <= training.consistency < math.inf,
        "--training.chunks": all(chunk > 0 for chunk in training.chunks),
        "--training.chunk_share": 0 < training.chunk_share <= 1,
        "--training.intermediate": 0 <= training.intermediate < 1,
        "--training.variational_noise": 0 <= training.variational_noise < math.inf,
        "--training.skip_limit": training.skip_limit > 0,
        "--training.validate_every": training.validate_every > 0,
        "--training.checkpoint_minutes": 0 <= training.checkpoint_minutes < math.inf,
        "--training.keep": training.keep >= 0,
        "--training.devices": training.devices > 0,
        "--training.nodes": training.nodes > 0,
    }
    check_ranges(checks, parsed)
    if training.step_seconds:
        training = replace(training, accumulate=_batches_a_step(training))
    _check_losses(training, model, parsed.data.join)
    _check_frozen(training, model)
    check_beginning(training, model, bool(parsed.init or parsed.resume))
    if training.steps % training.validate_every:
        # A checkpoint comes with each validation; the run's end must have one.
        raise UserError(
            f"--training.steps {training.steps}: must be a multiple of "
            f"--training.validate_every {training.validate_every}"
        )
    return Config(model, parsed.data, training, Path(parsed.out), parsed.resume, parsed.init, parsed.dry_run)


def _batches_a_step(training: TrainingConfig) -> int:
    """Batches of each device in a step of ``step_seconds``; raises UserError where none fit."""
    devices = training.devices * training.nodes
    passed = training.seconds * devices  # at once
    batches = max(round(training.step_seconds / passed), 1)
    option = f"--training.step_seconds {training.step_seconds:g}"
    if not math.isclose(batches * passed, training.step_seconds, rel_tol=1e-6):
        raise UserError(
            f"{option}: not a multiple of --training.seconds {training.seconds:g} on {devices} devices; "
            f"nearest is {batches * passed:g}, or change --training.seconds"
        )
    if training.accumulate not in (1, batches):
        raise UserError(
            f"--training.accumulate {training.accumulate}: {option} makes it {batches}; give that, or 1"
        )
    return batches


def _check_heads(given: Namespace, head: str) -> None:
    """Raise UserError for options, on the command line or in files, of a head that is not chosen."""
    missing = {"ctc": "transducer", "transducer": "ctc"}.get(head)
    if missing and given.get(f"training.{missing}"):
        weight = given.get(f"training.{missing}")
        raise UserError(f"--training.{missing} {weight:g}: wants such a head, but --head is {head}")
    if missing == "transducer" and given.get("transducer") is not None:
        option, value = next(iter(vars(given.transducer).items()))
        raise UserError(f"--transducer.{option} {value}: an option of a transducer, but --head is {head}")


def _check_losses(training: TrainingConfig, model: ModelConfig, join: float) -> None:
    """Raise UserError for losses that do not go together, or want a head that is not there."""
    distil = [name for name in vars(training) if name.startswith("distil_")]
    if not training.teacher:
        for name in (*distil, "splice"):
            if getattr(training, name) != getattr(TrainingConfig, name):
                raise UserError(f"--training.{name} {getattr(training, name)}: wants --training.teacher")
    elif not training.distils:
        weights = ", ".join(f"--training.{name}" for name in distil if getattr(TrainingConfig, name) == 0)
        raise UserError(
            f"--training.teacher {training.teacher}: wants one of {weights}, or it teaches nothing"
        )
    if not training.uses_transcripts and not training.distils:
        weights = " ".join(f"--training.{head} 0" for head in model.heads)
        raise UserError(f"{weights}: nothing is left to learn from; --training.teacher gives something")
    apart = [name for name in APART if getattr(training, name)]
    if apart and (training.uses_encoder or training.distil_attention or len(apart) > 1):
        # Batch norm would take the statistics of two passes.
        weight = getattr(training, apart[0])
        raise UserError(f"--training.{apart[0]} {weight:g}: goes alone, with --training.ctc 0")
    for name in ("taught_modules", "shuffle_minutes"):
        if (value := getattr(training, name)) and not training.distil_modules:
            raise UserError(f"--training.{name} {value}: wants --training.distil_modules")
    kinds = training.taught_modules if training.distil_modules else []
    if training.distil_start == "nearest" and kinds and "attention" not in kinds:
        raise UserError("--training.distil_start nearest: wants attention among --training.taught_modules")
    if training.teacher_memory:
        _check_remembering(training, model, join)
    if training.shuffle_minutes and training.chunks:
        raise UserError(
            f"--training.shuffle_minutes {training.shuffle_minutes:g}: its pieces are of the full context; "
            "without --training.chunks"
        )
    if training.chunks and training.distil_stages:
        raise UserError(f"--training.chunks {training.chunks}: distil_stages has the full context alone")
    if training.chunks and training.distils_layers and training.uses_encoder:
        raise UserError(
            f"--training.chunks {training.chunks}: with --training.distil_attention or distil_modules the "
            "teacher hears in chunks too, with other losses the whole recording; train one after the other"
        )
    if model.head == "hybrid" and training.uses_transcripts:
        for head, weight, other in (
            ("ctc", training.uses_head, "transducer"),
            ("transducer", training.transducer, "ctc"),
        ):
            if not weight and head not in training.freeze:
                raise UserError(
                    f"--training.{head} 0: nothing would train that head; --head {other} leaves it out"
                )
    for name in ("distil_posteriors", *APART):
        if getattr(training, name) and "ctc" not in model.heads:
            raise UserError(
                f"--training.{name} {getattr(training, name)}: wants a CTC head, but --head is {model.head}"
            )
    if training.transducer and model.transducer.durations:
        raise UserError(
            f"--transducer.durations {list(model.transducer.durations)}: a transducer with durations only "
            "decodes, there is no loss on them; --head ctc trains without it"
        )
    if training.variational_noise and "transducer" not in model.heads:
        raise UserError(
            f"--training.variational_noise {training.variational_noise}: wants a transducer, but --head is "
            f"{model.head}"
        )
    for name in ("intermediate", "consistency"):
        if getattr(training, name) and not training.ctc:
            raise UserError(f"--training.{name} {getattr(training, name)}: wants --training.ctc, which is 0")


def _check_remembering(training: TrainingConfig, model: ModelConfig, join: float) -> None:
    """Raise UserError where a teacher would not say the same again, or says it in what is not kept."""
    option = f"--training.teacher_memory {training.teacher_memory}"
    if not training.teacher:
        raise UserError(f"{option}: wants --training.teacher")
    changing = {
        f"--frontend.speeds {list(model.frontend.speeds)}": set(model.frontend.speeds) != {1.0},
        f"--training.distil_masks {training.distil_masks}": training.distil_masks == "both",
        f"--data.join {join:g}": join > 0,
        f"--training.nonspeech {training.nonspeech:g}": training.nonspeech > 0,
        f"--training.splice {training.splice:g}": training.splice > 0,
    }
    for other, changes in changing.items():
        if changes:
            raise UserError(f"{option}: not with {other}, with which no utterance is heard twice alike")
    if training.distil_attention or training.distil_modules:
        raise UserError(f"{option}: what distil_attention and distil_modules learn from is not kept")


def check_beginning(training: TrainingConfig, model: ModelConfig, begun: bool) -> None:
    """Raise UserError for what is to stay as it is, where there are no weights to begin with.

    --resume auto may find none: with it, this is for the training to ask again.
    """
    if training.freeze and not begun:
        raise UserError(
            f"--training.freeze {' '.join(training.freeze)}: random weights would stay so; it wants --init"
        )
    begun = begun or training.distils_apart > 0  # which learns scales and biases to fit
    if model.encoder.batch_norm == "frozen" and not begun:
        raise UserError("--encoder.batch_norm frozen: without --init there are no statistics to keep")


def _check_frozen(training: TrainingConfig, model: ModelConfig) -> None:
    """Raise UserError where what is to stay as it is is not there, or where nothing else is."""
    if not training.freeze:
        return
    option = f"--training.freeze {' '.join(training.freeze)}"
    missing = [part for part in training.freeze if part not in ("encoder", *model.heads)]
    if missing:
        raise UserError(f"{option}: there is no {missing[0]}; --head is {model.head}")
    if "encoder" in training.freeze and (training.distils_frames or training.distils_layers):
        raise UserError(
            f"{option}: --training.distil_encoder, distil_blocks, distil_attention, distil_modules and "
            "distil_stages would teach it nothing"
        )
    weights = {"ctc": training.ctc + training.distil_posteriors, "transducer": training.transducer}
    if "encoder" in training.freeze and not any(
        weights[head] for head in model.heads if head not in training.freeze
    ):
        raise UserError(f"{option}: no loss is left that trains anything; leave a head out of it")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__

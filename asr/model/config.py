"""What a model is, bar its weights: its configuration, read, written and bounded."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin, get_type_hints

from asr.attention import ATTENTIONS, parse_attention
from asr.bounds import check_bounds
from asr.errors import UserError
from asr.model.conformer import EncoderConfig
from asr.model.frames import Framing
from asr.model.frontend import FrontendConfig
from asr.model.transducer import TransducerConfig

HEADS = ("ctc", "transducer", "hybrid")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the model's function, bar its weights.

    Args:
        attention: self-attention mechanism, or several with commas, one a layer (asr/attention/__init__.py).
        positions: auto (each mechanism's own default), relative, rotary, sinusoid or none.
        options: the mechanisms' options by their names; defaults are filled in.
        encoder: size and shape of the Conformer.
        frontend: features and their augmentation.
        head: what reads the encoder: ctc, transducer, or both (hybrid).
        transducer: size of the transducer, if there is one.
    """

    attention: str = "mala"
    positions: str = "auto"
    options: Mapping[str, Any] | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    head: str = "ctc"
    transducer: TransducerConfig = field(default_factory=TransducerConfig)

    def __post_init__(self) -> None:
        """Raise UserError for an unknown mechanism or head or a number out of bounds, whoever wrote it."""
        if self.head not in HEADS:
            raise UserError(f"--head {self.head}: choose one of {', '.join(HEADS)}")
        names = dict.fromkeys(parse_attention(self.attention))
        given = self.options or {}
        options = {name: given.get(name) or ATTENTIONS[name].Options() for name in names}
        object.__setattr__(self, "options", options)
        check_bounds(self.encoder, "encoder")
        check_bounds(self.frontend, "frontend")
        check_bounds(self.transducer, "transducer")
        for name, chosen in self.options.items():
            check_bounds(chosen, name)

    @property
    def framing(self) -> Framing:
        """How the model divides time."""
        return Framing(self.frontend.framing_edges, self.encoder.subsampling.factor)

    @property
    def heads(self) -> tuple[str, ...]:
        """Those that there are, of ctc and transducer; the one that decodes unless told otherwise first."""
        return ("transducer", "ctc") if self.head == "hybrid" else (self.head,)


def model_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Plain dicts, lists, numbers and strings: what a checkpoint may hold."""
    plain = asdict(config)
    plain["frontend"]["speeds"] = list(config.frontend.speeds)
    plain["transducer"]["durations"] = list(config.transducer.durations)
    return plain


def model_from_dict(plain: dict[str, Any]) -> ModelConfig:
    """Inverse of ``model_to_dict``; raises UserError where names are unknown or values cannot be."""
    attention = plain.get("attention") if isinstance(plain, dict) else None
    if not isinstance(attention, str):
        raise UserError(f"attention {attention!r} is not the name of one")
    names = parse_attention(attention)
    sections = {"encoder": EncoderConfig, "frontend": FrontendConfig}
    try:
        parts = {name: _section(cls, plain[name], name) for name, cls in sections.items()}
        if "transducer" in plain:  # which there was none of before
            parts["transducer"] = _section(TransducerConfig, plain["transducer"], "transducer")
        options = plain["options"]
        if attention in ATTENTIONS and attention not in options:
            options = {attention: options}  # as it was written before there were lists
        parts["options"] = {name: _section(ATTENTIONS[name].Options, options[name], name) for name in names}
        if unknown := options.keys() - parts["options"].keys():
            raise UserError(f"options of {', '.join(sorted(unknown))}, which the model does not have")
        config = ModelConfig(**{**plain, **parts})
    except (TypeError, KeyError) as error:
        raise UserError(f"model configuration: {error}") from None
    check_ranges(model_ranges(config), config)
    return config


def _section(cls: type, plain: dict[str, Any], name: str):
    """A dataclass from a dict that anyone may have written; raises UserError for a value of a wrong kind."""
    made, kinds = cls(**plain), get_type_hints(cls)
    inner = [key for key in plain if is_dataclass(kinds[key])]
    made = replace(made, **{key: _section(kinds[key], plain[key], f"{name}.{key}") for key in inner})
    for field_name, kind in kinds.items():
        if not _is_a(getattr(made, field_name), kind):
            raise UserError(f"{name}.{field_name} {getattr(made, field_name)!r}: wrong kind of value")
    # What reads JSON or YAML gives lists.
    return replace(made, **{key: tuple(getattr(made, key)) for key, kind in kinds.items() if _is_tuple(kind)})


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if _is_tuple(kind):
        return isinstance(value, (list, tuple)) and all(_is_a(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def model_ranges(model: ModelConfig) -> dict[str, bool]:
    """Options of the model that have more to them than bounds, and whether each is as it should be."""
    return {"--frontend.speeds": bool(model.frontend.speeds)}


def check_ranges(checks: dict[str, bool], config: Any) -> None:
    """Raise UserError for the first option that is out of range; its value is in ``config``."""
    for option, good in checks.items():
        if not good:
            value = attrgetter(option.removeprefix("--"))(config)
            raise UserError(f"{option} {value}: out of range")

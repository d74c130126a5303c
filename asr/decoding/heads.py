"""Which head decodes, for the library and for decode.py."""

from collections.abc import Callable, Mapping

from asr.errors import UserError
from asr.model.config import ModelConfig


def choose_head(
    config: ModelConfig,
    head: str = "",
    with_lm: bool = False,
    ctc_only: Mapping[str, object] | None = None,
    weights: Mapping[str, float] | None = None,
    spell: Callable[[str], str] = str,
) -> str:
    """The head to decode with, ctc or transducer.

    Args:
        config: of the model.
        head: the one that was asked for; empty: the transducer where there is one, but CTC with an LM or
            with an option that only CTC has.
        with_lm: whether an LM takes part.
        ctc_only: values of the options that only CTC has; those that are false are not set.
        weights: ``ctc_weight`` and ``ilm_weight`` of a transducer's beam search.
        spell: an option's name as the user writes it.

    Raises:
        UserError: the model lacks the head, or an option does not suit it.
    """
    heads = config.heads
    wanted = {name: value for name, value in (ctc_only or {}).items() if value}
    chosen = head or ("ctc" if (with_lm or wanted) and "ctc" in heads else heads[0])
    if chosen not in heads:
        raise UserError(f"{spell('head')} {chosen}: the model has none; its head is {config.head}")
    if wanted and chosen == "transducer":
        name, value = next(iter(wanted.items()))
        advice = f"{spell('head')} ctc does it" if "ctc" in heads else f"leave {spell(name)} out"
        raise UserError(f"{spell(name)} {value}: not with a transducer yet; {advice}")
    weighted = {name: value for name, value in (weights or {}).items() if value}
    if weighted and chosen == "ctc":
        name, value = next(iter(weighted.items()))
        raise UserError(
            f"{spell(name)} {value:g}: of a transducer's beam search; here ctc decodes ({spell('head')})"
        )
    if "ctc_weight" in weighted and "ctc" not in heads:
        raise UserError(f"{spell('ctc_weight')} {weighted['ctc_weight']:g}: the model has no CTC head")
    return chosen

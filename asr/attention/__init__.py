"""Self-attention mechanisms behind one contract. This registry is the only place that knows their names.

To add one: write a file with a subclass of ``SelfAttention`` and add a line here; the command line, the
encoder and the tests pick it up from the registry.
"""

from asr.attention.agent import AgentAttention
from asr.attention.base import Frames, SelfAttention
from asr.attention.cosformer import CosformerAttention
from asr.attention.efficient import EfficientAttention
from asr.attention.focused import FocusedLinearAttention
from asr.attention.inline import InlineAttention
from asr.attention.linear import LinearAttention
from asr.attention.mala import MagnitudeAwareLinearAttention
from asr.attention.nala import NormAwareLinearAttention
from asr.attention.softmax import SoftmaxAttention
from asr.errors import UserError

ATTENTIONS: dict[str, type[SelfAttention]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "mala": MagnitudeAwareLinearAttention,
    "inline": InlineAttention,
    "nala": NormAwareLinearAttention,
    "focused": FocusedLinearAttention,
    "efficient": EfficientAttention,
    "cosformer": CosformerAttention,
    "agent": AgentAttention,
}


def parse_attention(text: str) -> tuple[str, ...]:
    """The mechanisms that ``--attention`` names: one, or several with commas between them, one a layer.

    Where there are more layers, the list is repeated over them: ``mala,mala,mala,softmax`` makes every fourth
    layer softmax.

    Raises:
        UserError: a name is unknown.
    """
    names = tuple(text.split(","))
    for name in names:
        if name not in ATTENTIONS:
            known = ", ".join(ATTENTIONS)
            raise UserError(f"--attention {text}: {name!r} is unknown; choose from {known}")
    return names


__all__ = ["ATTENTIONS", "Frames", "SelfAttention", "parse_attention"]

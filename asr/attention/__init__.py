"""Self-attention mechanisms behind one contract. This registry is the only place that knows their names.

To add one: write a file with a subclass of ``SelfAttention`` and add a line here; the command line, the
encoder and the tests pick it up from the registry.
"""

from asr.attention.base import SelfAttention
from asr.attention.linear import LinearAttention
from asr.attention.mala import MagnitudeAwareLinearAttention
from asr.attention.softmax import SoftmaxAttention

ATTENTIONS: dict[str, type[SelfAttention]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "mala": MagnitudeAwareLinearAttention,
}

__all__ = ["ATTENTIONS", "SelfAttention"]

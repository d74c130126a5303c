"""Feature maps phi of linear attention."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

# exp beyond this would leave fp32 once features, values and their gradients are multiplied and summed.
EXP_LIMIT = 20.0


def elu(x: Tensor) -> Tensor:
    """elu(x) + 1, positive everywhere (arXiv 2006.16236, Eq. 7)."""
    return F.elu(x) + 1


def exp(x: Tensor) -> Tensor:
    """exp(x), held constant above exp(20)."""
    return x.clamp(max=EXP_LIMIT).exp()


def identity(x: Tensor) -> Tensor:
    """x itself (InLine, arXiv 2412.06590)."""
    return x


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu,
    "relu": F.relu,
    "exp": exp,
    "identity": identity,
}

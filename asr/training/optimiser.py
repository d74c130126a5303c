"""The optimiser: AdamW, or Muon for matrices with AdamW for all else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr.training.config import TrainingConfig

BETAS = (0.9, 0.98)
# PyTorch scales Muon's update to a root mean square of 0.2 learning rates. With 1 a step is as long as Adam's
# first ones are, and one peak_lr suits both.
STEP = 5.0
# The learning rate of scales and biases beside Muon, over that of matrices. They have the farthest to go:
# norms of trained models have biases of 3 and more, out of reach of AdamW's steps of one learning rate.
VECTORS = 10.0


def make_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimiser of all parameters that learn. Weight decay is of weights with several axes."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # An LSTM's are called weight_ih_l0 and the like.
    decayed = [p for name, p in named if p.ndim > 1 and name.rpartition(".")[2].startswith("weight")]
    known = {id(p) for p in decayed}
    rest = [p for _, p in named if id(p) not in known]  # biases, norms, scales
    matrices = [p for p in decayed if p.ndim == 2]
    if config.optimiser == "muon" and matrices:
        kernels = [p for p in decayed if p.ndim > 2]
        return Muon(matrices, kernels, rest, config.peak_lr, config.weight_decay)
    return _adamw(decayed, rest, config.peak_lr, config.weight_decay)


def _adamw(
    decayed: list[Tensor], rest: list[Tensor], lr: float, weight_decay: float, vectors: float = 1.0
) -> torch.optim.AdamW:
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0, "lr": vectors * lr}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024; arXiv 2502.16982) for matrices and AdamW for the others, as one optimiser.

    A matrix moves by its gradient's momentum made orthogonal: directions that few frames ask for move as far
    as the common ones do. The update's root mean square is the learning rate.

    Args:
        matrices: parameters with two axes.
        kernels, rest: what AdamW is for, with weight decay and without.
        lr: of all, but ``VECTORS`` times it for ``rest``.
        weight_decay: of all but ``rest``.

    Attributes:
        found_inf: a scalar that is not 0 where a step's gradient is not finite: the step is skipped, which
            waits for the device.
        grad_scale: as fused optimisers have it; not used.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        matrices: list[Tensor],
        kernels: list[Tensor],
        rest: list[Tensor],
        lr: float,
        weight_decay: float,
    ) -> None:
        self._muon = torch.optim.Muon(
            matrices, lr=STEP * lr, weight_decay=weight_decay / STEP, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = _adamw(kernels, rest, lr, weight_decay, VECTORS)
        super().__init__(self._muon.param_groups + self._adamw.param_groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both, with the state and the groups that this one holds, saves and loads."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.found_inf is not None and self.found_inf.item():
            return loss
        groups = self.param_groups[:1], self.param_groups[1:]
        for inner, theirs in zip((self._muon, self._adamw), groups, strict=True):
            inner.state, inner.param_groups = self.state, theirs
            inner.step()
        return loss

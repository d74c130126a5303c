"""Noise on weights while gradients are computed (Graves, Practical Variational Inference, 2011)."""

import torch
from torch import Tensor, nn


class VariationalNoise:
    """Adds Gaussian noise to a module's weights before a forward pass, takes it away after the backward one.

    So the optimiser descends, from the weights without noise, the gradient at those with it.

    Args:
        deviation: of the noise.
    """

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation
        self.clean: list[tuple[Tensor, Tensor]] = []  # a weight, and what it is without noise

    @torch.no_grad()
    def add(self, module: nn.Module) -> None:
        """Put noise on; drawn from torch's generator."""
        for weight in module.parameters():
            self.clean.append((weight, weight.clone()))
            weight += self.deviation * torch.randn_like(weight)

    @torch.no_grad()
    def remove(self) -> None:
        """The weights as they were, to the bit."""
        for weight, clean in self.clean:
            weight.copy_(clean)
        self.clean = []

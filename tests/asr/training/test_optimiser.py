"""Muon: a step against its formula in float64, its state, and steps that are skipped."""

import copy

import pytest
import torch
from torch import nn

from asr.training.config import TrainingConfig
from asr.training.optimiser import BETAS, VECTORS, Muon, make_optimiser

CONFIG = TrainingConfig(optimiser="muon", peak_lr=0.01, weight_decay=0.1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.Conv2d(1, 2, 3), nn.LayerNorm(5))


def descend(module: nn.Module, optimiser: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimiser.step()


def test_a_matrix_moves_by_its_orthogonal_gradient_and_the_rest_as_with_adamw():
    module = model()
    before, optimiser = copy.deepcopy(module), make_optimiser(module, CONFIG)
    assert isinstance(optimiser, Muon)
    descend(module, optimiser, 1)
    old, grad = before[0].weight.double(), module[0].weight.grad.double()
    moved = module[0].weight.double() - old * (1 - 0.01 * 0.1)
    u, s, v = torch.linalg.svd(-moved / (0.01 * 24**0.5))
    # Newton and Schulz' iteration ends with singular values near 1, and the gradient's own directions.
    assert ((s > 0.6) & (s < 1.3)).all()
    along = torch.linalg.svd(grad)
    assert torch.allclose(u[:, :8] @ v, along.U[:, :8] @ along.Vh, atol=0.25)
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01, rel=0.3)

    plain = copy.deepcopy(before)
    groups = [{"params": plain[1].weight}, {"params": [plain[0].bias, plain[1].bias, *plain[2].parameters()]}]
    groups[1] |= {"weight_decay": 0.0, "lr": VECTORS * 0.01}
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=BETAS, weight_decay=0.1)
    descend(plain, adamw, 1)
    for name in ("0.bias", "1.weight", "1.bias", "2.weight", "2.bias"):
        assert torch.allclose(module.get_parameter(name), plain.get_parameter(name), atol=1e-6), name


def test_a_run_that_was_saved_goes_on_as_if_it_had_not_been():
    module = model()
    optimiser = make_optimiser(module, CONFIG)
    descend(module, optimiser, 3)
    other = copy.deepcopy(module)
    resumed = make_optimiser(other, CONFIG)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for one, its in ((module, optimiser), (other, resumed)):
        descend(one, its, 3, seed=1)
    for name, value in module.named_parameters():
        assert torch.equal(value, other.get_parameter(name)), name


def test_a_schedule_moves_both_rates():
    module = model()
    optimiser = make_optimiser(module, CONFIG)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.0 if step else 1.0)
    descend(module, optimiser, 1)
    schedule.step()
    before = copy.deepcopy(module.state_dict())
    descend(module, optimiser, 1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_step_without_a_finite_gradient_is_skipped():
    module = model()
    before, optimiser = copy.deepcopy(module.state_dict()), make_optimiser(module, CONFIG)
    optimiser.found_inf = torch.tensor(1.0)
    descend(module, optimiser, 1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    optimiser.found_inf = torch.tensor(0.0)
    descend(module, optimiser, 1)
    assert not torch.equal(module[0].weight, before["0.weight"])


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_parameters_that_stand_still_are_left_out(optimiser):
    module = model()
    module[1].requires_grad_(False)
    made = make_optimiser(module, TrainingConfig(optimiser=optimiser))
    held = {id(p) for group in made.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*module[0].parameters(), *module[2].parameters())}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_lstm_s_matrices_are_no_biases(kind):
    module = nn.LSTM(3, 4)
    groups = make_optimiser(module, TrainingConfig(optimiser=kind, weight_decay=0.1)).param_groups
    without = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {name for name, p in module.named_parameters() if id(p) in without} == {"bias_ih_l0", "bias_hh_l0"}

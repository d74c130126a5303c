import torch

from asr.training.variational_noise import VariationalNoise


def test_the_gradient_is_that_with_noise_and_the_weights_are_as_before():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(300, 1, bias=False), torch.randn(300)
    before = layer.weight.detach().clone()
    noise = VariationalNoise(0.1)
    noise.add(layer)
    during = layer.weight.detach().clone()
    (0.5 * layer(x).square()).sum().backward()
    noise.remove()
    assert torch.equal(layer.weight, before)
    assert 0.08 < (during - before).std() < 0.12
    assert torch.allclose(layer.weight.grad, (during @ x) * x, rtol=1e-4)
    noise.remove()  # once more changes nothing
    assert torch.equal(layer.weight, before)

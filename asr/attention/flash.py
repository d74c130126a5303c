"""PyTorch's half-precision softmax kernels: what they want of their inputs, and padding that stays exact.

None of this has run on a GPU yet. The kernels multiply bf16 or fp16 in tensor cores and accumulate in fp32;
they read head sizes that are multiples of 8, so others are padded with zeros, which change no product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

DTYPES = (torch.bfloat16, torch.float16)
MAX_HEAD_SIZE = 256
ALIGNMENT = 8  # of head sizes, in elements
# On a GPU never the way that forms all products in fp32. On a CPU, where tests compare the arithmetic, it is
# what gives a bias its gradient.
BIASED = {
    "cuda": [SDPBackend.EFFICIENT_ATTENTION],
    "cpu": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
}


def refusal(q: Tensor) -> str | None:
    """Why these kernels will not take queries (..., d), in a few words; None where they will."""
    if not q.is_cuda:
        return "no CUDA device"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if q.dtype not in DTYPES:
        return f"{str(q.dtype).removeprefix('torch.')}; softmax's fast kernels take bf16"
    if q.shape[-1] > MAX_HEAD_SIZE:
        return f"head size {q.shape[-1]} is over {MAX_HEAD_SIZE}"
    return None


def aligned(d: int) -> int:
    """The head size that the kernels read in place of d."""
    return d + -d % ALIGNMENT


def attend_within(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v within each utterance, by FlashAttention for sequences of many lengths.

    The batch is given as it lies, as 2 B sequences: each utterance's valid frames, and its padding. So
    nothing is packed, no length is copied to the host, and no valid frame sees padding. What padding computes
    by itself costs less than masking it would: n^2 + (N - n)^2 products against N^2.

    Args:
        q, k, v: (B, H, N, d), bf16 or fp16; q and k may have zeros up to ``aligned(d)`` already.
        lengths: (B,) valid frames of each, 0 to N.

    Returns:
        (B, H, N, d) like v; what stands on padding means nothing.
    """
    n = q.shape[-2]
    by_frame = (_aligned(x.transpose(1, 2)).flatten(0, 1) for x in (q, k, v))
    y = varlen_attn(*by_frame, *2 * [boundaries(lengths, n)], n, n, scale=scale)
    return y.unflatten(0, (-1, n)).transpose(1, 2)[..., : v.shape[-1]]


def boundaries(lengths: Tensor, n: int) -> Tensor:
    """Where valid frames and padding begin in a batch of (B, n) frames laid end to end: (2 B + 1,) int32."""
    starts = n * torch.arange(len(lengths) + 1, device=lengths.device)
    both = torch.stack((starts[:-1], starts[:-1] + lengths), dim=-1).flatten()
    return torch.cat((both, starts[-1:])).int()


def attend_biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + bias) v by the memory-efficient kernel, which gives a bias its gradient.

    Args:
        q: (B, H, n, d), bf16 or fp16; k and v (B, H, N, d).
        bias: broadcast to (B, H, n, N), in q's dtype.

    Returns:
        (B, H, n, d) like q.

    Raises:
        RuntimeError: the kernel takes no such inputs; PyTorch then says why.
    """
    with sdpa_kernel(BIASED[q.device.type]):
        y = F.scaled_dot_product_attention(*(_aligned(x) for x in (q, k, v)), attn_mask=bias, scale=scale)
    return y[..., : q.shape[-1]]


def _aligned(x: Tensor) -> Tensor:
    """x (..., d) with zeros up to the next multiple of 8 channels."""
    missing = aligned(x.shape[-1]) - x.shape[-1]
    return F.pad(x, (0, missing)) if missing else x

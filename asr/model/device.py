"""On which device and in which precision a model runs: what the options (asr/device_options.py) mean here."""

import torch

from asr.errors import UserError
from asr.model.recogniser import Model


def choose_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: no GPU that PyTorch can use was found; --device cpu works everywhere")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def choose_dtype(precision: str, device: torch.device, cpu_too: bool = False) -> torch.dtype:
    """The dtype that ``auto``, ``fp32`` or ``bf16`` means for products on a device.

    ``auto`` is bf16 on a GPU that has it, and where ``cpu_too`` holds, on such a CPU as well.
    """
    if precision == "auto":
        bf16 = has_bf16(device) and (cpu_too or device.type == "cuda")
        return torch.bfloat16 if bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast there: in tensor cores, or AVX-512 BF16 or AMX instructions on a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu.get_capabilities()
    return bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which a model multiplies in ``dtype``; fp32 leaves it as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def describe(model: Model) -> str:
    """Device, precision and attention core of a model under the ``autocast`` of now, in words.

    Raises:
        UserError: ``--kernels fused``, and they cannot run.
    """
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if torch.is_autocast_enabled(device.type) else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    precision = str(dtype).removeprefix("torch.")
    return f"{name}, {precision}, attention core: {model.encoder.attention_core(device, dtype)}"

"""The options that say on which device, in which precision and by which kernels a model runs.

Apart from what they mean (asr/model/device.py), so that --help need not wait for PyTorch.
"""

import argparse

KERNELS = ("auto", "eager", "fused")
# Names, values and meanings; the default is auto.
DEVICE_OPTIONS = {
    "device": (("auto", "cpu", "cuda"), "auto: the GPU where there is one"),
    "precision": (
        ("auto", "fp32", "bf16"),
        "auto: bf16 on a GPU that has it, else fp32; recordings longer than a batch are always in fp32",
    ),
    "kernels": (
        KERNELS,
        "attention core: auto (fused kernels on a GPU, for the mechanisms and precisions that have them, "
        "once they agree with eager PyTorch on the first batch), eager, or fused (an error where not)",
    ),
}


def add_device_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add those of the options that are named, or all; ``asr.model.device`` and ``set_mode`` take them."""
    for name in names or DEVICE_OPTIONS:
        choices, meaning = DEVICE_OPTIONS[name]
        parser.add_argument(f"--{name}", choices=choices, default="auto", help=meaning)


def given_options(args: argparse.Namespace, *names: str) -> list[str]:
    """Those options as they were given, for the command line of another program."""
    return [part for name in names or DEVICE_OPTIONS for part in (f"--{name}", getattr(args, name))]

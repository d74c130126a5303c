"""Fused GPU kernels of the attention mechanisms. Importing this package needs neither Triton nor a GPU."""

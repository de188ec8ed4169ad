"""Triton kernels: each with a launcher that takes torch tensors. `registry` says where each one applies."""

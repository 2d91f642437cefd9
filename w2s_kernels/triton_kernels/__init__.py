"""Triton kernels, one file an op, imported only when a GPU call needs them."""

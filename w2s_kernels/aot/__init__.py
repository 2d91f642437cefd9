"""Triton kernels compiled ahead of time, without a GPU, and what their machine code shows:
`python -m w2s_kernels.aot`."""

"""The one benchmark of the ops: `python -m w2s_kernels.bench OP`. The folder `bench/` is its face
for pytest-benchmark."""

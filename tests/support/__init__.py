"""What several test files share, imported as `from support import …`.

`pythonpath = ["tests"]` in pyproject.toml makes this folder importable; nothing in it imports
`w2s_kernels.ops`, so a reference here cannot inherit a mistake of the code it judges.
"""

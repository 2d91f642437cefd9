"""`make gpu`: what a GPU does with this project, in parts of at most ten minutes.

`python -m gpu_suite --list` (with `bench` on the path) says what the parts are. `store.py` keeps
what they find, `page.py` shows it, `plots.py` draws it, `tune.py` writes the kernels' settings.
"""

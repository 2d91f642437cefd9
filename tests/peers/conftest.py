"""The peers' tests run where the peers are: in the environments that `make test-peers` makes."""

from importlib import util

collect_ignore = [] if util.find_spec("trl") else ["test_trl.py"]

"""The peers' tests run where the peers are: in the environments that `make test-peers` makes."""

from importlib import util

PEERS = ("trl", "mergekit")
collect_ignore = [f"test_{peer}.py" for peer in PEERS if util.find_spec(peer) is None]

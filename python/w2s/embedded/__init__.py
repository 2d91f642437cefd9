"""What the demonstration needs and no hub: one large model, one tiny pair, labelled reviews.

`large()` and `reviews()` read files of installed packages (`demo_package.py` says which); `pair()`
finds two folders beside this file. Nothing here downloads anything.
"""

from w2s.embedded.review_data import Review, ReviewSplit, held_out, openings, reviews
from w2s.embedded.smollm2 import large
from w2s.embedded.tiny_pair import Pair, pair

__all__ = ["Pair", "Review", "ReviewSplit", "held_out", "large", "openings", "pair", "reviews"]

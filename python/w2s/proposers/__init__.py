"""Who extends text. A proposer owns the rows' text; the loop tells it which rows go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from w2s.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Chunk:
    """What every row gained in one `extend`; R rows, up to L tokens, on one device.

    tokens [R, L] int64: the new tokens; what stands behind a row's end means nothing.
    logprobs [R, L] float32: their log-probs under the proposer's law; 0 behind a row's end.
    lengths [R] int64: how many of the L tokens are the row's. An unfinished row has all L.
    finished [R] bool: rows that have ended, in this chunk or before.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor
    finished: Tensor


class Proposer(Protocol):
    """Extends R = P·C rows, C rows a prompt; row p·C + c is candidate c of prompt p."""

    @property
    def device(self) -> torch.device:
        """Where the chunks lie."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a response; a produced one is part of the response."""

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """Begins a search. A proposer that samples may take a keyword `index`: each prompt's place
        in the whole input, which seeds its rows (without it, 0 to P − 1)."""

    def extend(self, max_new: int) -> Chunk:
        """Extends every unfinished row by L <= max_new tokens (fewer only when all rows ended)."""

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """Row j of prompt p becomes a copy of its old row `parent[p, j]`.

        parent [P, C] in [0, C); share [P, C, C]: response tokens that two old rows have in common
        because both were copied from one row.

        After a selection K = plan.samples rows in a run have one parent, and a proposer may count
        on it. A frozen prompt's rows all stay as they are; what they gain from then on is dropped,
        so it may be anything.
        """

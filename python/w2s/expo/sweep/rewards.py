"""What a response is worth: the reward that α is chosen by, of the user's choice.

`sentiment`: the embedded review judge, with VADER beside it. `pair` or `pair:TUNED,UNTUNED`: the
implicit reward log p_tuned − log p_untuned. `hf:MODEL` or `hf:MODEL#LABEL`: a sequence classifier.
`python:MODULE:FUNCTION`: a function of prompts and responses.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from w2s.errors import ExpoError, W2SError
from w2s.fingerprint import identity

if TYPE_CHECKING:
    from w2s.prompts import Prompt

JUDGE_FILE = "judge.npz"


class Reward(Protocol):
    """Scores responses. name: as the user gave it. label: of the curve's axis.

    depends_on: what its values depend on, as plain data; a sweep goes on only with the same.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def depends_on(self) -> Mapping[str, Any]: ...

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, list[float]]:
        """ "reward" and whatever is to be reported beside it: a number for each response.

        Raises:
            ExpoError: they cannot be scored.
        """


def make_reward(
    given: str, folder: Path, say: Callable[[str], None], *, device: str, tokenizer: Any
) -> Reward:
    """The reward that `given` names.

    folder: keeps the review judge once it is trained. say: takes a line when that takes time.
    device: of a reward's models. tokenizer: for a pair's folders that bring none.

    Raises:
        ExpoError: there is no such reward, or it cannot be loaded.
    """
    kind, _, rest = given.partition(":")
    if given == "sentiment":
        return SentimentReward(folder, say)
    if kind == "pair":
        return PairReward(given, rest, device, tokenizer)
    if kind == "hf" and rest:
        from w2s.expo.sweep.classifier import ClassifierReward

        return ClassifierReward(given, rest, device)
    if kind == "python" and rest:
        return PythonReward(given, rest)
    raise ExpoError(
        f"the reward {given!r} is none of sentiment, pair, pair:TUNED,UNTUNED, hf:MODEL, "
        "hf:MODEL#LABEL and python:MODULE:FUNCTION"
    )


class SentimentReward:
    """P(positive) of a response by the review judge; `vader` is reported beside it."""

    name, label = "sentiment", "review judge: P(positive)"

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        from w2s.embedded.demo_package import MissingDemoError
        from w2s.reproduce.judge import kept_judge
        from w2s.reproduce.measures import vader

        try:
            self._judge, self._vader = kept_judge(folder / JUDGE_FILE, say), vader()
        except (MissingDemoError, ValueError) as error:
            raise ExpoError(" ".join(str(error).split())) from error
        self.depends_on = {"judge": self._judge.facts}

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, list[float]]:
        return {
            "reward": [self._judge(text) for text in responses],
            "vader": [self._vader(text) for text in responses],
        }


class PairReward:
    """Σ log p_tuned − log p_untuned over a response's tokens, in nats; without TUNED,UNTUNED the
    embedded pair's."""

    label = "implicit reward of the pair (nats)"

    def __init__(self, name: str, members: str, device: str, tokenizer: Any) -> None:
        from transformers import AutoTokenizer

        from w2s import embedded
        from w2s.checkpoints import lacks_tokenizer
        from w2s.scoring import load_pair

        self.name = name
        names = members.split(",") if members else [str(member) for member in embedded.pair()]
        if len(names) != 2 or not all(names):
            raise ExpoError(f"the reward {name!r} must name two models: pair:TUNED,UNTUNED")
        try:
            lent = tokenizer if all(lacks_tokenizer(member) for member in names) else None
            if not members:
                lent = AutoTokenizer.from_pretrained(str(embedded.large()))
            self._pair = load_pair((names[0], names[1]), tokenizer=lent, device=device)
        except (W2SError, OSError, ImportError) as error:
            raise ExpoError(f"the reward {name!r}: {_one_line(error)}") from error
        self.depends_on = {
            role: identity(member)[1]
            for role, member in zip(("tuned", "untuned"), names, strict=True)
        }

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, list[float]]:
        from w2s.scoring import score

        try:
            found = score(prompts, responses, self._pair)
        except W2SError as error:
            raise ExpoError(f"the reward {self.name!r}: {_one_line(error)}") from error
        return {"reward": checked([one.total for one in found], len(responses), self.name)}


class PythonReward:
    """FUNCTION of MODULE, called with a list of prompts and one of responses; a float for each.

    The module may lie in the current folder. What it depends on is told by its source file.
    """

    def __init__(self, name: str, entry: str) -> None:
        self.name, self.label = name, entry
        module_name, _, function = entry.partition(":")
        if not module_name or not function.isidentifier():
            raise ExpoError(f"the reward {name!r} must be python:MODULE:FUNCTION")
        module = _imported(module_name, name)
        self._function = getattr(module, function, None)
        if not callable(self._function):
            raise ExpoError(f"the reward {name!r}: {module_name} has no function {function}")
        source = getattr(module, "__file__", None)
        data = Path(source).read_bytes() if source else b""
        self.depends_on = {"source": hashlib.sha256(data).hexdigest()[:16]}

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, list[float]]:
        try:
            found = self._function(list(prompts), list(responses))  # type: ignore[misc]
        except Exception as error:  # the user's code: whatever it raises is reported as its own
            raise ExpoError(
                f"the reward {self.name!r} raised {type(error).__name__}: {_one_line(error)}"
            ) from error
        return {"reward": checked(found, len(responses), self.name)}


def checked(found: Any, count: int, name: str) -> list[float]:
    """The values of a reward as finite floats, one a response.

    Raises:
        ExpoError: they are not so many, or one is no finite number; names it.
    """
    try:
        values = list(found)
    except TypeError:
        raise ExpoError(
            f"the reward {name!r} returned {type(found).__name__}; it must return a list of "
            f"{count} numbers"
        ) from None
    if len(values) != count:
        raise ExpoError(
            f"the reward {name!r} returned {len(values)} values for {count} responses; it must "
            "return one for each"
        )
    numbers = []
    for place, value in enumerate(values):
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ExpoError(
                f"the reward {name!r} gave {value!r:.60} for response {place} of its batch; it "
                "must give a finite number"
            )
        numbers.append(number)
    return numbers


def _imported(module: str, name: str) -> Any:
    here = os.getcwd()
    sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # importing runs the user's code
        raise ExpoError(
            f"the reward {name!r}: {module} cannot be imported ({type(error).__name__}: "
            f"{_one_line(error)})"
        ) from error
    finally:
        sys.path.remove(here)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

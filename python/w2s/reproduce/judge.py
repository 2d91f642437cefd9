"""The judge of controlled sentiment: TF-IDF and logistic regression, trained on reviews.

It learns from the judge part of the reviews, which no model of the pair has seen. scikit-learn
trains it; using it takes NumPy alone. Its file holds plain arrays and JSON, so that loading one
runs no code (a pickle would).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from w2s.embedded.demo_package import require_module

if TYPE_CHECKING:
    from w2s.embedded import Review

_WORD = re.compile(r"\b\w\w+\b")
_LEAST_REVIEWS = 3  # a term counts when so many reviews have it
_INVERSE_REGULARISATION = 10.0
_PIECE = 36  # words; about what 48 tokens are


@dataclass(frozen=True)
class Judge:
    """P(positive) of a text, from its words and pairs of neighbouring words.

    column: term -> column. idf, weight [terms] float64. bias: the intercept.
    facts: what it was trained on and how often it is right, as plain data.
    """

    column: dict[str, int]
    idf: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: float
    facts: dict[str, Any]

    def __call__(self, text: str) -> float:
        """P(positive): the logistic of the weights times 1 + log tf, × idf, to length 1."""
        counts = Counter(self.column[term] for term in terms(text) if term in self.column)
        if not counts:
            return _logistic(self.bias)
        columns = np.fromiter(counts.keys(), dtype=np.int64)
        value = (1 + np.log(np.fromiter(counts.values(), dtype=np.float64))) * self.idf[columns]
        return _logistic(float(value @ self.weight[columns] / np.linalg.norm(value)) + self.bias)

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads; the same judge gives the same arrays."""
        ordered = sorted(self.column, key=self.column.__getitem__)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                terms=_json_array(ordered),
                facts=_json_array(self.facts),
                idf=self.idf,
                weight=self.weight,
                bias=np.float64(self.bias),
            )

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Reads a file written by `save`; nothing in it is executed.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                ordered = json.loads(arrays["terms"].tobytes())
                judge = cls(
                    {term: place for place, term in enumerate(ordered)},
                    arrays["idf"],
                    arrays["weight"],
                    float(arrays["bias"]),
                    json.loads(arrays["facts"].tobytes()),
                )
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is not the file of a judge ({error})") from error
        if not len(judge.column) == len(judge.idf) == len(judge.weight):
            raise ValueError(
                f"{path} has {len(judge.column)} terms, {len(judge.idf)} idf and "
                f"{len(judge.weight)} weights; they must be as many"
            )
        return judge


def kept_judge(path: Path, say: Callable[[str], None]) -> Judge:
    """The judge in the file `path`, trained on the reviews and kept there when there is none yet.

    Raises:
        ValueError: the file is damaged.
        MissingDemoError: the reviews or scikit-learn are not installed.
    """
    if path.exists():
        try:
            return Judge.load(path)
        except ValueError as error:
            raise ValueError(f"{error}; remove it to have the judge trained again") from error
    from w2s import embedded

    say("training the review judge …")
    parts = embedded.reviews()
    judge = train_judge(parts.judge, parts.test)
    scratch = path.with_suffix(".tmp")
    judge.save(scratch)
    scratch.replace(path)
    return judge


def terms(text: str) -> list[str]:
    """Words of two letters and more in lower case, and pairs of neighbours among them."""
    words = _WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def train_judge(reviews: Sequence[Review], held_out: Sequence[Review]) -> Judge:
    """Trains on `reviews`; its facts say how often it is right on `held_out`.

    Both on whole reviews and on pieces as long as a continuation of 48 tokens.

    Raises:
        MissingDemoError: scikit-learn is not installed.
    """
    require_module("sklearn")
    import sklearn
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(analyzer=terms, min_df=_LEAST_REVIEWS, sublinear_tf=True)
    table = vectorizer.fit_transform([review.text for review in reviews])
    classifier = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=300)
    classifier.fit(table, [review.positive for review in reviews])
    judge = Judge(
        {str(term): int(place) for term, place in vectorizer.vocabulary_.items()},
        np.asarray(vectorizer.idf_, dtype=np.float64),
        np.asarray(classifier.coef_[0], dtype=np.float64),
        float(classifier.intercept_[0]),
        {
            "trained_on": len(reviews),
            "terms": len(vectorizer.vocabulary_),
            "reviews_sha256": _digest(reviews),
            "scikit-learn": str(sklearn.__version__),
        },
    )
    judge.facts["held_out"] = len(held_out)
    judge.facts["accuracy"] = _accuracy(judge, held_out, None)
    judge.facts["accuracy_of_pieces"] = _accuracy(judge, held_out, _PIECE)
    return judge


def _accuracy(judge: Judge, reviews: Sequence[Review], words: int | None) -> float:
    """Share of reviews, or of their first so many words, whose sign is found."""
    if not reviews:
        return math.nan
    texts = [" ".join(review.text.split()[:words]) for review in reviews]
    right = [
        (judge(text) > 0.5) == review.positive for text, review in zip(texts, reviews, strict=True)
    ]
    return round(sum(right) / len(right), 4)


def _digest(reviews: Sequence[Review]) -> str:
    found = hashlib.sha256()
    for review in reviews:
        found.update(f"{review.text}\0{int(review.positive)}\n".encode())
    return found.hexdigest()[:16]


def _json_array(value: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), dtype=np.uint8)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))

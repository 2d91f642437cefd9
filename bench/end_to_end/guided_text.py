"""Is guided text better? Base, best-of-16 and CBS(4, 4, 5) on openings of held-out reviews.

    python bench/end_to_end/guided_text.py --openings 48

Two judges that know neither model: VADER, a word list, and a classifier (TF-IDF and logistic
regression) trained on the reviews' judge part, which the pair never saw. An opening counts once,
with the mean over its base samples, so intervals are over openings: ± 1.96 standard errors.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from w2s import embedded
from w2s.cli.demo import vader
from w2s.cli.models import Models, load_models
from w2s.plan import SearchPlan

NEW_TOKENS = 48
ROWS = 128  # searched at once; bounds the KV caches
Judge = Callable[[Sequence[str]], list[float]]


def review_judge() -> Judge:
    """P(positive) of texts, by a classifier trained on the judge part."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    part = embedded.reviews().judge
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(C=10, max_iter=300),
    ).fit([review.text for review in part], [review.positive for review in part])
    return lambda texts: [float(row[1]) for row in classifier.predict_proba(list(texts))]


def texts_of(models: Models, openings: list[str], seed: int) -> dict[str, list[list[str]]]:
    """For each method, each opening's texts: all base samples, the best of them, the search's."""
    shared: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "temperature": 0.7,
        "top_k": 50,
        "seed": seed,
    }
    sampled = SearchPlan(width=1, samples=16, chunk=None, **shared)
    guided = SearchPlan(width=4, samples=4, chunk=5, **shared)
    found: dict[str, list[list[str]]] = {"base": [], "best of 16": [], "CBS 4,4,5": []}
    step = ROWS // 16
    for first in range(0, len(openings), step):
        some = openings[first : first + step]
        for result in models.search(some, sampled, first=first):
            found["base"].append([candidate.text for candidate in result.candidates])
            found["best of 16"].append([result.best.text])
        for result in models.search(some, guided, first=first):
            found["CBS 4,4,5"].append([result.best.text])
        print(f"{first + len(some)} of {len(openings)} openings", file=sys.stderr, flush=True)
    return found


def summary(values: Sequence[float]) -> list[float]:
    """Mean and 95 % half-width over openings."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return [round(statistics.fmean(values), 3), round(half, 3)]


def distinct_2(text: str) -> float:
    """Share of a text's word pairs that are different."""
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def main() -> None:
    """Prints one JSON object: per judge the methods' means and the paired differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--openings", type=int, default=48)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pair", nargs=2, metavar=("TUNED", "UNTUNED"), help="default: embedded")
    given = parser.parse_args()
    models = load_models(None, tuple(given.pair) if given.pair else None)
    openings = embedded.openings(models.large.tokenizer, given.openings, skip=given.skip)
    found = texts_of(models, openings, given.seed)
    compound = vader()
    judges: dict[str, Judge] = {
        "judge": review_judge(),
        "vader": lambda texts: [compound(text) for text in texts],
        "distinct-2": lambda texts: [distinct_2(text) for text in texts],
        "words": lambda texts: [float(len(text.split())) for text in texts],
    }
    report: dict[str, object] = {"openings": len(openings), "seed": given.seed}
    for name, judge in judges.items():
        means = {
            method: [statistics.fmean(judge(texts)) for texts in rows]
            for method, rows in found.items()
        }
        figures = {method: summary(values) for method, values in means.items()}
        base, best, guided = means.values()
        for label, above, below in (
            ("CBS − base", guided, base),
            ("CBS − best of 16", guided, best),
            ("best of 16 − base", best, base),
        ):
            figures[label] = summary([a - b for a, b in zip(above, below, strict=True)])
        report[name] = figures
    print(json.dumps(report, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()

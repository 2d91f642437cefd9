"""The report as a page: `docs/quality.md` with its plots, written by `w2s reproduce report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from w2s.durable import replace_file
from w2s.reproduce.bootstrap import RESAMPLES
from w2s.reproduce.pace import duration
from w2s.reproduce.plots import plot_candidates, plot_tokens
from w2s.reproduce.sentiment import CANDIDATES_PLOT, TOKENS_PLOT
from w2s.reproduce.tables import (
    differences_table,
    methods_table,
    order_sentences,
    variants_table,
)

_PAGE = """# Controlled sentiment, reproduced

<!-- Written by `w2s reproduce report`; change w2s/reproduce/page.py instead. -->

Does steering make better text? The experiment of weak-to-strong search ([arXiv
2405.19262](https://arxiv.org/abs/2405.19262), section 5.1) with the models that come with this
package: {large} continues openings of held-out movie reviews, and the [embedded
pair](../python/w2s/embedded/MODEL_CARD.md) steers it towards positive ones.

```
{command}
w2s reproduce report {folder} --page docs/quality.md
```

## The paper's order

{order}

{differences}

A difference is paired: opening by opening, on the same openings and seeds. Brackets are 95 %
bootstrap intervals over openings ({resamples:,} resamples); an opening counts once, with the mean
over its seeds, so the seeds make its value less noisy and are not resampled. Nothing is corrected
for the number of comparisons.

## All methods

{methods}

* *base* is the large model alone: the mean of the 16 texts an opening and seed of which BoN-16
  takes the best, so both see the same draws. BoN-4 and BoN-8 take the best of the first 4 and 8
  of them.
* *EFT* adds the pair's difference of logits, times β = 1, to every token's logits; two texts an
  opening and seed, averaged.
* *CBS W,K,L* keeps W hypotheses, continues each K times, and selects after every L tokens.
* Methods with fewer openings or seeds were run on the first openings and seeds of the others:
  their means compare only with means on the same ones, which is what the next table and the plots
  show.
* *pair's score* is what the search maximises: Σ log p_tuned − log p_untuned, in nats.
  *distinct-2* is the share of a text's word pairs that are different. *words* and *tokens* are
  lengths of the result.
* *large tokens*: written by the large model for one opening, discarded ones included. *pair
  tokens*: read by the pair's two models together. Tokens of the openings are not counted.
* *seconds* for one opening, in batches of {rows} rows; with ≈ the method's share of a run that
  serves several methods.

## Gain over the base, against what it costs

{variants}

![Gain over the base against model tokens]({tokens_plot})

![Gain over the base against W·K]({candidates_plot})

Gains are paired differences on the openings and seeds of the method at hand; in the plots, methods
of one W·K stand side by side. *model tokens* are large tokens and pair tokens together, for one
opening; how much smaller the pair's models are stands below.

## How it was measured

* {openings} openings of {opening_tokens} tokens from IMDB reviews that neither the pair nor the
  judge was trained on{unseen}; {new_tokens} new tokens at most, temperature {temperature}, top-k
  {top_k}, search seeds {seeds}. A text may end earlier with the model's end token.
* The judge reads the continuation alone: TF-IDF of words and word pairs with logistic regression,
  trained on {trained_on:,} reviews that the pair never saw (`w2s reproduce judge`); on
  {held_out:,} held-out reviews it is right for {accuracy:.1%}, on their first words, as many as a
  continuation has, for {accuracy_of_pieces:.1%}. VADER is a word list; it shares nothing with the
  pair or the judge.
* Models: {models}.
* Machine: {machine}. Versions: {versions}. Commit: {commits}. Searching took {time}.{note}
* The same command gives the same texts on the same machine with the same number of threads.
  Another processor rounds the models' sums differently, and near-ties may then be decided
  differently.
"""


def page(report: dict[str, Any], folder: str, note: str = "") -> str:
    """The page's Markdown; `folder` is the run's, as the commands on the page name it.

    note: a sentence on how the run went.
    """
    experiment, judge = report["experiment_settings"], report["judge"]
    plan = experiment["runs"][0]["plan"]
    seeds = experiment["runs"][0]["seeds"]
    models = report["models"]
    return _PAGE.format(
        large=models["large"]["name"],
        command=_command(report["scale"], folder),
        folder=folder,
        order=order_sentences(report),
        differences=differences_table(report),
        resamples=RESAMPLES,
        methods=methods_table(report),
        rows=experiment["rows_at_once"],
        variants=variants_table(report),
        tokens_plot=TOKENS_PLOT,
        candidates_plot=CANDIDATES_PLOT,
        openings=experiment["openings"],
        opening_tokens=experiment["opening_tokens"],
        unseen=(
            f", after passing over the {experiment['skip']} that were looked at while the pair was "
            "made"
            if experiment["skip"]
            else " (some were looked at while the pair was made)"
        ),
        new_tokens=plan["max_new_tokens"],
        temperature=plan["temperature"],
        top_k=plan["top_k"],
        seeds=", ".join(map(str, seeds)),
        trained_on=judge["trained_on"],
        held_out=judge["held_out"],
        accuracy=judge["accuracy"],
        accuracy_of_pieces=judge["accuracy_of_pieces"],
        models="; ".join(
            f"{role} `{one['name']}`, {one['parameters'] / 1e6:.1f} M parameters, {one['dtype']}, "
            f"{one['weights']}"
            for role, one in models.items()
        ),
        machine=_listed(report["machine"]),
        versions=_listed(report["versions"]),
        commits=", ".join(report["commits"]),
        time=duration(report["seconds"]),
        note=f" {note}" if note else "",
    )


def publish(report: dict[str, Any], folder: str, path: Path, note: str = "") -> list[Path]:
    """Writes the page (`page`) and, beside it, its plots; returns what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, [page(report, folder, note).encode()])
    plots = [path.parent / TOKENS_PLOT, path.parent / CANDIDATES_PLOT]
    plot_tokens(report, plots[0])
    plot_candidates(report, plots[1])
    return [path, *plots]


def _command(scale: dict[str, Any], folder: str) -> str:
    options = ["--quick"] if scale["quick"] else []
    for name in ("openings", "seeds"):
        if scale[name] is not None:
            options.append(f"--{name} {scale[name]}")
    return " ".join(["w2s reproduce sentiment", *options, f"--work {folder}"])


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())

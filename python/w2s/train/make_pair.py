"""Makes the embedded sentiment pair from data to figures: `python -m w2s.train.make_pair`.

Movie reviews → an untrained tiny llama on SmolLM2's tokenizer → supervised fine-tuning on all
reviews of the pair's part (the untuned model) → preference training on excerpts of positive against
negative reviews (the tuned model) → figures on held-out reviews. All seeds are fixed; the same
machine and thread count give the same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from w2s import embedded
from w2s.models import Model, load
from w2s.train.dpo import DPOConfig, train_dpo
from w2s.train.loop import StepReport, TrainConfig
from w2s.train.pair_figures import figures
from w2s.train.review_rows import write_preferences, write_texts
from w2s.train.sft import SFTConfig, train_sft
from w2s.train.tiny_llama import write_tiny_llama

SEED = 0
SFT = SFTConfig(
    lr=2e-3, length=256, batch=8, epochs=1.0, warmup=100, candidates=6000,
    save_dtype="bfloat16", seed=SEED,
)  # fmt: skip
DPO = DPOConfig(
    lr=2e-4, beta=0.5, nll_weight=2.0, batch=16, steps=300, warmup=20, length=72, end=False,
    candidates=4000, save_dtype="bfloat16", seed=SEED,
)  # fmt: skip
EXCERPT_WORDS = (24, 56)
HELD_OUT_TOKENS = (48, 128)


def make_pair(work: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Makes tuned/, untuned/ and metrics.json in `work`; finished parts found there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    large = embedded.large()
    split = embedded.reviews()
    start = work / "start"
    if not start.exists():
        write_tiny_llama(large, start, SEED)
    texts, preferences = work / "sft.jsonl", work / "dpo.jsonl"
    write_texts(split.pair, texts)
    count = DPO.batch * DPO.total_steps(0)
    write_preferences(split.pair, preferences, count=count, words=EXCERPT_WORDS, seed=SEED)
    files: dict[str, Any] = {"tokenizer": large, "save_tokenizer": False}
    untuned_at, tuned_at = work / "untuned", work / "tuned"
    if not _finished(untuned_at, SFT):
        train_sft(start, texts, untuned_at, SFT, on_step=_log(report, "sft"), **files)
    if not _finished(tuned_at, DPO):
        train_dpo(untuned_at, preferences, tuned_at, DPO, on_step=_log(report, "dpo"), **files)
    report("figures on held-out reviews")
    tuned, untuned = load_member(tuned_at, large), load_member(untuned_at, large)
    metrics = {
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "training": {
            name: {key: record[key] for key in ("steps", "tokens", "seconds")}
            for name, record in (("untuned", _record(untuned_at)), ("tuned", _record(tuned_at)))
        },
        "reviews": {"pair": len(split.pair), "judge": len(split.judge), "test": len(split.test)},
        "held_out": [figures(tuned, untuned, split.test, tokens=n) for n in HELD_OUT_TOKENS],
    }
    (work / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return record


def _finished(folder: Path, config: TrainConfig) -> bool:
    """Whether `folder` holds a model trained with exactly `config`.

    Raises:
        FileExistsError: it holds one trained with other settings.
    """
    if not folder.exists():
        return False
    if _record(folder)["config"] != json.loads(json.dumps(asdict(config))):
        raise FileExistsError(
            f"{folder} was made with other settings; remove it, or choose another --work folder"
        )
    return True


def install(work: Path, place: Path) -> None:
    """Replaces the pair, its metrics.json and its card's figures in `place` by those in `work`."""
    for name in ("tuned", "untuned"):
        fresh, old = place / f".{name}-new", place / name
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for file in ("config.json", "model.safetensors", "train.json"):
            shutil.copyfile(work / name / file, fresh / file)
        shutil.rmtree(old, ignore_errors=True)
        fresh.rename(old)
    shutil.copyfile(work / "metrics.json", place / "metrics.json")
    card = place / "MODEL_CARD.md"
    metrics = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    card.write_text(with_figures(card.read_text(encoding="utf-8"), metrics), encoding="utf-8")


def with_figures(card: str, metrics: dict[str, Any]) -> str:
    """The card with the table between its two markers made from `metrics`."""
    begin, end = (f"<!-- figures:{word} -->" for word in ("begin", "end"))
    rows = [
        f"| {row['tokens']} | {row['reviews']} | {row['auc']:.3f} ± {row['auc_half_width_95']:.3f} "
        f"| {row['nll_untuned']:.3f} | {row['nll_tuned']:.3f} |"
        for row in metrics["held_out"]
    ]
    times = " and ".join(
        f"{name} {record['tokens']:,} tokens in {record['seconds']:.0f} s"
        for name, record in metrics["training"].items()
    )
    table = [
        "| first tokens | reviews | AUC | NLL a token, untuned | NLL a token, tuned |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Training, seed {metrics['seed']}, {metrics['threads']} CPU threads, torch "
        f"{metrics['torch']}: {times}.",
    ]
    before, after = card.split(begin)[0], card.split(end)[1]
    return "\n".join([before + begin, *table, end + after])


def load_member(folder: Path, large: Path) -> Model:
    """A model of the pair, in float32, with the tokenizer of `large`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    return load((module, AutoTokenizer.from_pretrained(str(large))))


def _log(report: Callable[[str], None], kind: str) -> Callable[[StepReport], None]:
    begin = time.perf_counter()

    def on_step(step: StepReport) -> None:
        if step.step % 25 and step.step != step.steps:
            return
        extra = "".join(f"  {name} {value:.3f}" for name, value in step.metrics.items())
        report(
            f"{kind} {step.step}/{step.steps}  loss {step.loss:.4f}{extra}  "
            f"{step.tokens_per_second:.0f} tokens/s  {time.perf_counter() - begin:.0f} s"
        )

    return on_step


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m w2s.train.make_pair", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/pair"),
        help="folder for rows, checkpoints and figures; parts finished there are not made again",
    )
    parser.add_argument(
        "--install", type=Path, metavar="DIR", help="put the result there (python/w2s/embedded)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; a different number rounds apart")
    given = parser.parse_args(arguments)
    if given.threads is not None:
        if given.threads < 1:
            parser.error(f"--threads {given.threads}: must be at least 1")
        torch.set_num_threads(given.threads)
    metrics = make_pair(given.work, lambda line: print(line, file=sys.stderr, flush=True))
    if given.install:
        install(given.work, given.install)
    print(json.dumps(metrics, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

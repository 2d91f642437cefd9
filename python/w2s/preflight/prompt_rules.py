"""Findings about how each model sees a prompt: templates, special tokens, context."""

from collections.abc import Iterator, Sequence

from w2s.errors import ChatTemplateError, PromptError, SpecialTokenError
from w2s.plan import SearchPlan
from w2s.preflight.card import Card
from w2s.preflight.finding import Finding, error, note, warning
from w2s.prompts import Prompt

# Stands in for a prompt when none is given.
PROBE = "Hello"


def prompt_findings(
    card: Card, prompts: Sequence[Prompt] | None, plan: SearchPlan | None
) -> Iterator[Finding]:
    """What becomes of the prompts (or of a stand-in) in one model's hands."""
    if card.tokenizer is None and prompts is None:
        return
    texts: Sequence[Prompt] = [PROBE] if prompts is None else prompts
    chat = card.style.chat or any(_is_chat(prompt) for prompt in texts)
    if chat and card.tokenizer is not None and not _chat_template(card):
        yield error(
            "chat-template-missing",
            f"{card.who} is to read chat messages, and its tokenizer has no chat template",
            "give one with chat_template=FILE, or plain strings without chat",
        )
        return
    if card.tokenizer is not None and not chat:
        yield from _appended_end(card)
    if card.tokenizer is not None and chat:
        yield from _chat_without_bos(card)
    encoded: list[list[int]] = []
    for number, prompt in enumerate(texts):
        where = "a prompt" if prompts is None else f"prompt {number}"
        try:
            encoded.append(card.style.encode(prompt, card.tokenizer, where))
        except SpecialTokenError as reason:
            yield _refused("special-token-twice", card, reason)
            return
        except ChatTemplateError as reason:
            yield _refused("chat-template", card, reason)
            return
        except PromptError as reason:
            yield _refused("prompt", card, reason)
            return
    if prompts is not None and plan is not None:
        yield from _context(card, encoded, plan)


def _refused(code: str, card: Card, reason: PromptError) -> Finding:
    what, _, advice = str(reason).rpartition("; ")  # the advice is always the last part
    return error(code, f"{card.who}: {what}", advice)


def _is_chat(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and any(isinstance(part, dict) for part in prompt)


def _chat_template(card: Card) -> str | None:
    found = card.style.chat_template or getattr(card.tokenizer, "chat_template", None)
    return None if found is None else str(found)


def _appended_end(card: Card) -> Iterator[Finding]:
    ids = card.tokenizer(PROBE)["input_ids"]
    if len(ids) > 1 and card.module is not None and ids[-1] in card.eos_token_ids:
        yield warning(
            "eos-after-prompt",
            f"the tokenizer of {card.who} puts its end token after a plain prompt, so the response "
            "begins after the end",
            "set add_eos_token to false in tokenizer_config.json",
        )


def _chat_without_bos(card: Card) -> Iterator[Finding]:
    """The tokenizer puts a BOS before plain strings, the chat template writes none."""
    bos = card.tokenizer.bos_token_id
    plain = card.tokenizer(PROBE)["input_ids"]
    if bos is None or plain[:1] != [bos]:
        return
    try:
        ids = card.style.encode([{"role": "user", "content": PROBE}], card.tokenizer)
    except PromptError:  # reported when the prompts themselves are encoded
        return
    if ids[0] != bos:
        yield note(
            "chat-without-bos",
            f"the chat template of {card.who} writes no {card.tokenizer.bos_token!r}, which its "
            "tokenizer puts before plain strings; transformers' apply_chat_template gives the same "
            "prompt",
            "nothing if the model was trained so; else begin the chat template with "
            "{{ bos_token }}",
        )


def _context(card: Card, encoded: Sequence[Sequence[int]], plan: SearchPlan) -> Iterator[Finding]:
    if card.context is None or not encoded or plan.max_new_tokens >= card.context:
        return
    limit = card.context - plan.max_new_tokens
    beyond = sum(len(ids) > limit for ids in encoded)
    worst = max(range(len(encoded)), key=lambda number: len(encoded[number]))
    if beyond:
        yield error(
            "context",
            f"prompt {worst} has {len(encoded[worst])} tokens, and with {plan.max_new_tokens} new "
            f"ones that is more than the {card.context} positions of {card.who} ({beyond} of "
            f"{len(encoded)} prompts are too long)",
            "shorten the prompts, or lower max_new_tokens",
        )


def chat_findings(large: Card, tuned: Card, untuned: Card) -> Iterator[Finding]:
    """The models of a chat read it through different templates."""
    if not (large.style.chat and tuned.style.chat):
        return
    if large.tokenizer is None or tuned.tokenizer is None:
        return
    mine, theirs = _chat_template(large), _chat_template(tuned)
    if mine and theirs and mine != theirs:
        yield note(
            "chat-templates-differ",
            f"{large.who} and {tuned.who} have different chat templates",
            "nothing if each was trained with its own; each model reads prompts its own way",
        )
    if untuned.tokenizer is not None and theirs != _chat_template(untuned):
        yield warning(
            "pair-templates-differ",
            f"{tuned.who} and {untuned.who} have different chat templates, so they score different "
            "prompts",
            "give both the same chat_template",
        )

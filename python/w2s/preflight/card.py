"""`Card`: what a model says about itself before its weights are loaded.

The model is built from its config on the meta device: every module and shape is there and nothing
is allocated, so the checks ask the same questions of it as `load` asks of the real one.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from w2s.anatomy import context_length, eos_tokens, text_config, valid_vocab
from w2s.checkpoints import lacks_tokenizer, tokenizer_source
from w2s.errors import ModelError, VocabularyError
from w2s.models import Model
from w2s.preflight.finding import Finding, error, note
from w2s.preflight.weights import Weights, read_weights
from w2s.prompts import PromptStyle

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_ADAPTER = "adapter_config.json"


@dataclass
class Card:
    """A model as its config, tokenizer and file headers describe it, or one that is loaded.

    who: what to call it, as "the tuned model (./tuned)".
    module: a transformers model on the meta device, or the loaded one; None when there is no
      building it (a finding says why). weights: None when they are not in files on this machine.
    columns, vocab: as in `Model`. loaded: whether `module` holds its weights.
    """

    who: str
    style: PromptStyle
    module: Any = None
    tokenizer: Any = None
    weights: Weights | None = None
    quantization: Any = None
    loaded: bool = False
    findings: list[Finding] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return None if self.module is None else text_config(self.module)

    @property
    def columns(self) -> int | None:
        output = None if self.module is None else self.module.get_output_embeddings()
        if output is None:
            return None
        return int(getattr(output, "out_features", None) or len(output.weight))

    @property
    def vocab(self) -> int | None:
        columns = self.columns
        if columns is None:
            return None
        try:
            return valid_vocab(self.module, columns, self.tokenizer)
        except VocabularyError:
            return columns

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end a response and can be written at all."""
        found = eos_tokens(self.module, self.config, self.tokenizer)
        return frozenset(token for token in found if 0 <= token < (self.vocab or 0))

    @property
    def context(self) -> int | None:
        return None if self.module is None else context_length(self.config)


def read_card(
    role: str,
    source: Any,
    style: PromptStyle,
    *,
    tokenizer: Any = None,
    lender: Card | None = None,
    options: dict[str, Any],
) -> Card:
    """The card of whatever `load` takes.

    tokenizer: one to use in place of the source's own. lender: the model whose tokenizer a folder
    borrows that brings none. options: `load`'s keywords for `from_pretrained`.

    Raises `ModelError` when the source does not exist or is nothing that `load` takes.
    """
    if isinstance(source, Model):
        return _loaded_card(role, source.name, source.module, source.tokenizer, source.style)
    if isinstance(source, tuple) and len(source) == 2:
        module, own = source
        own = own if tokenizer is None else tokenizer
        return _loaded_card(role, _own_name(module), module, own, style)
    if hasattr(source, "get_output_embeddings"):
        return _loaded_card(role, _own_name(source), source, tokenizer, style)
    if not isinstance(source, str | os.PathLike):
        raise ModelError(
            f"a model is a path, a hub id, a .gguf file or (model, tokenizer); got {source!r:.80}"
        )
    card = Card(f"{role} ({os.fspath(source)})", style)
    _read_files(card, os.fspath(source), dict(options))
    _read_tokenizer(card, os.fspath(source), tokenizer, lender, options)
    return card


def _own_name(module: Any) -> str:
    return getattr(module.config, "name_or_path", "") or type(module).__name__


def _loaded_card(role: str, name: str, module: Any, tokenizer: Any, style: PromptStyle) -> Card:
    card = Card(f"{role} ({name})", style, module, tokenizer, loaded=True)
    if getattr(module, "is_quantized", False):
        card.quantization = getattr(module.config, "quantization_config", None)
    return card


def _read_files(card: Card, source: str, options: dict[str, Any]) -> None:
    """Config, generation config and weight headers of a folder, a hub id or a .gguf file."""
    if source.endswith(".gguf"):
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"{source} does not exist")
        _build(card, str(path.parent), options, gguf_file=path.name)
        return
    folder = Path(source)
    if not folder.is_dir():
        if folder.exists() or not _HUB_ID.fullmatch(source):
            raise ModelError(f"{source} is not a folder, a .gguf file or a hub id that exists")
        cached = _hub_folder(source, options)
        if (cached / _ADAPTER).is_file():
            _read_adapter(card, cached, options)
            return
        _build(card, source, options)
        if any(cached.glob("*.safetensors")):
            card.weights = read_weights(cached, card.who)
        else:
            card.findings.append(
                note(
                    "weights-not-here",
                    f"the weights of {card.who} are not on this machine, so their files were not "
                    "looked at",
                    "nothing: they are downloaded when the model is first loaded",
                )
            )
    elif (folder / _ADAPTER).is_file():
        _read_adapter(card, folder, options)
    else:
        card.weights = read_weights(folder, card.who)
        _build(card, source, options)


def _hub_folder(source: str, options: dict[str, Any]) -> Path:
    """The folder of the hub's cache that has this model's config (or adapter config)."""
    from transformers.utils.hub import cached_file

    shared = {key: options[key] for key in ("revision", "token") if key in options}
    try:
        found = cached_file(
            source, _ADAPTER, _raise_exceptions_for_missing_entries=False, **shared
        ) or cached_file(source, "config.json", **shared)
    except (OSError, ValueError) as reason:
        raise ModelError(f"{source} cannot be found: {reason}") from reason
    return Path(found).parent


def _read_adapter(card: Card, folder: Path, options: dict[str, Any]) -> None:
    """A LoRA folder: the model is the base it names, the weights are both."""
    from importlib.util import find_spec

    try:
        base = json.loads((folder / _ADAPTER).read_text())["base_model_name_or_path"]
        if not isinstance(base, str):
            raise TypeError(f"base_model_name_or_path is {base!r}")
    except (OSError, ValueError, KeyError, TypeError) as reason:
        card.findings.append(
            error(
                "adapter",
                f"{card.who} is an adapter whose {_ADAPTER} names no base model ({reason!r})",
                'write its "base_model_name_or_path" into that file',
            )
        )
        return
    if find_spec("peft") is None:
        card.findings.append(
            error(
                "adapter",
                f"{card.who} is a LoRA adapter, and the package peft is not installed",
                "install it: pip install peft",
            )
        )
    try:
        _read_files(card, base, options)
    except ModelError as reason:
        card.findings.append(
            error(
                "adapter",
                f"the base model of {card.who} is not there: {reason}",
                f'correct "base_model_name_or_path" in {_ADAPTER}, or put the base model there',
            )
        )
        return
    own = read_weights(folder, card.who, "adapter_model.safetensors")
    both = Weights() if card.weights is None else card.weights
    both.findings += own.findings
    both.tensors |= {f"adapter:{name}": tensor for name, tensor in own.tensors.items()}
    card.weights = both


def _build(card: Card, source: str, options: dict[str, Any], **files: str) -> None:
    """The model of the config on the meta device, with its generation config."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    shared = {k: options[k] for k in ("revision", "trust_remote_code", "token") if k in options}
    try:
        config = AutoConfig.from_pretrained(source, **shared, **files)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as reason:
        card.findings.append(_unreadable(card.who, reason, bool(files)))
        return
    card.quantization = options.get("quantization_config") or (
        None if files else getattr(config, "quantization_config", None)
    )
    chosen = {k: options[k] for k in ("attn_implementation", "trust_remote_code") if k in options}
    try:
        with torch.device("meta"):
            card.module = AutoModelForCausalLM.from_config(config, **chosen)
    except Exception as reason:  # whatever the code of a model family raises for its config
        card.findings.append(_unbuildable(card.who, config, reason))
        return
    with suppress(OSError):  # without a file of its own, the model made one from its config
        card.module.generation_config = GenerationConfig.from_pretrained(source, **shared)


def _unreadable(who: str, reason: Exception, gguf: bool) -> Finding:
    if gguf:
        return error(
            "weights-damaged",
            f"{who} cannot be read ({_first_line(reason)})",
            "download the file again, and see that the package gguf is installed and new enough",
        )
    if "trust_remote_code" in str(reason):
        return error(
            "remote-code",
            f"{who} brings its own code, which is not run by default",
            "read that code, and if you trust it, load with trust_remote_code=True",
        )
    return error(
        "config",
        f"the config of {who} cannot be read ({_first_line(reason)})",
        "give a folder with the config.json of a transformers model",
    )


def _unbuildable(who: str, config: Any, reason: Exception) -> Finding:
    if getattr(config, "is_encoder_decoder", False):
        return error(
            "model-class",
            f"{who} is an encoder-decoder model ({config.model_type})",
            "take a decoder-only (causal) language model",
        )
    if "Unrecognized configuration class" in str(reason):
        return error(
            "model-class",
            f"{who} is a {config.model_type} model, and transformers has no causal language model "
            "of that kind",
            "take a causal language model",
        )
    if "ttention" in str(reason):
        return error(
            "attention",
            f"the attention that {who} asks for cannot be used ({_first_line(reason)})",
            "load it with attn_implementation='sdpa'",
        )
    return error(
        "config",
        f"{who} cannot be built from its config ({_first_line(reason)})",
        "correct config.json, or take the checkpoint from its source again",
    )


def _first_line(reason: Exception) -> str:
    lines = str(reason).strip().splitlines() or [""]
    return f"{type(reason).__name__}: {lines[0]:.200}".rstrip(". ")


def _read_tokenizer(
    card: Card, source: str, given: Any, lender: Card | None, options: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    if given is not None:
        card.tokenizer = given
        return
    if lacks_tokenizer(source):
        card.tokenizer = None if lender is None else lender.tokenizer
        # A lender whose tokenizer cannot be read has that among its own findings.
        if card.tokenizer is None and (lender is None or not lender.findings):
            card.findings.append(
                error(
                    "tokenizer",
                    f"{card.who} has no tokenizer files",
                    "copy the tokenizer of the model that it was made from into the folder",
                )
            )
        return
    where, files = tokenizer_source(source), {}
    if source.endswith(".gguf"):
        if card.module is None:  # one file holds both, and cannot be read
            return
        where, files = str(Path(source).parent), {"gguf_file": Path(source).name}
    shared = {k: options[k] for k in ("revision", "trust_remote_code", "token") if k in options}
    try:
        card.tokenizer = AutoTokenizer.from_pretrained(where, **files, **shared)
    except Exception as reason:  # tokenizers raise bare exceptions for files they cannot parse
        card.findings.append(
            error(
                "tokenizer",
                f"the tokenizer of {card.who} cannot be read ({_first_line(reason)})",
                "copy its tokenizer files from their source again",
            )
        )

"""LoRA adapters by peft: what they make of a head, where they lie, and one base under two models.

peft puts adapters into the base model in place, so a base that was adapted is no longer a base. A
second view of it (`view`) has modules of its own over the same weights, with its own adapters
switched on: a pair of a base and its adapter costs the memory of one model.
"""

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from w2s.errors import HeadError, ModelError

_CONFIG = "adapter_config.json"


def adapter_folder(source: str, **hub: Any) -> str | None:
    """The local folder of an adapter's files, for a folder or hub id of one; None for a model."""
    if Path(source).exists():
        return source if (Path(source) / _CONFIG).is_file() else None
    if find_spec("peft") is None:
        return None
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(source, **hub)
    return None if found is None else str(Path(found).parent)


def base_name(folder: str) -> str:
    """The base model that an adapter was trained on. `ModelError` when its folder names none."""
    path = Path(folder) / _CONFIG
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not base or not isinstance(base, str):
        raise ModelError(
            f"{path} names no base model; write its base_model_name_or_path, or give "
            "(PeftModel.from_pretrained(base, folder), tokenizer)"
        )
    return base


def put_on(base: Any, source: str, **hub: Any) -> Any:
    """`base` with the adapter of `source`, read by peft itself.

    transformers' own `from_pretrained` on an adapter's folder drops the magnitudes of DoRA
    (seen in 5.23), and tied copies of trained tokens.
    """
    if find_spec("peft") is None:
        raise ModelError(f"{source} is an adapter: pip install 'w2s-kernels[peft]', or merge it")
    from peft import PeftModel

    return PeftModel.from_pretrained(base, source, **hub)


def require_weights_only(module: Any) -> None:
    """Raises `ModelError` for an active adapter that does more than change weights."""
    configs = getattr(module, "peft_config", None) or {}
    for name in _active(module):
        config = configs.get(name)
        kind = str(getattr(config, "peft_type", "")).rpartition(".")[2]
        if getattr(config, "is_prompt_learning", False) or getattr(
            config, "alora_invocation_tokens", None
        ):
            raise ModelError(
                f"the adapter {name!r} ({kind}) works on the prompt, not on weights alone, so a "
                "cached search would miss it; use LoRA, or another adapter of weights"
            )


def has_adapters(module: Any) -> bool:
    """Whether any layer carries an adapter, active or not."""
    return any(_carries(layer) for layer in module.modules())


def require_two(tuned: Any, untuned: Any) -> None:
    """Raises `ModelError` when a pair's two `Model`s are one module with one state of adapters."""
    if tuned is not untuned and tuned.backbone is untuned.backbone and has_adapters(tuned.module):
        raise ModelError(
            "the tuned and the untuned model are one and the same module: peft puts an adapter "
            "into its base in place, so the base is no longer there; use "
            "w2s.load((peft_model, tokenizer), adapter=False) as the untuned model (it shares the "
            "weights), or load the base a second time"
        )


def view(module: Any, adapter: str | bool) -> Any:
    """A second model over the same weights, with one adapter on, by name, or all off (False).

    Every parameter and buffer is shared, so merging adapters into `module` afterwards would change
    both. Raises `ModelError` when there is no such adapter or the adapters cannot be switched off.
    """
    configs = getattr(module, "peft_config", None) or {}
    if not has_adapters(module) or not configs:
        raise ModelError(
            f"adapter={adapter!r} was asked for, but {type(module).__name__} carries no adapter"
        )
    if isinstance(adapter, str) and adapter not in configs:
        raise ModelError(f"there is no adapter {adapter!r}; there are {', '.join(sorted(configs))}")
    if any(getattr(layer, "merged_adapters", None) for layer in module.modules()):
        raise ModelError(
            "adapters are merged into the base weights, which both models would share; call "
            "unmerge_adapter() first"
        )
    trained = sorted(n for n, c in configs.items() if getattr(c, "bias", "none") != "none")
    if trained:
        raise ModelError(
            f"the adapters {', '.join(trained)} also trained biases of the base, which cannot be "
            "switched off; load the base a second time"
        )
    shared = [*module.parameters(), *module.buffers()]
    trainable = [tensor.requires_grad for tensor in shared]
    second = copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    peft = hasattr(second, "get_base_model")
    tuner = second.base_model if peft else second
    if adapter is False:
        (tuner.disable_adapter_layers if peft else tuner.disable_adapters)()
    else:
        (tuner.enable_adapter_layers if peft else tuner.enable_adapters)()
        second.set_adapter(adapter)
    for tensor, wanted in zip(shared, trainable, strict=True):
        tensor.requires_grad_(wanted)  # peft has changed it, on tensors that are not ours
    return second


def _carries(layer: Any) -> bool:
    return bool(getattr(layer, "adapter_layer_names", ()))


def _active(module: Any) -> list[str]:
    """Names of the active adapters; transformers has a method where peft has a property."""
    active = getattr(module, "active_adapters", ())
    if callable(active):
        try:
            active = active()
        except ValueError:  # transformers says so when no adapter was ever loaded
            return []
    return list(active)


def merged_layer(layer: Any) -> Any:
    """An output layer with its active adapters worked into a copy of its weight."""
    if not hasattr(layer, "get_base_layer") or not hasattr(layer, "merge"):
        return layer
    if layer.disable_adapters or layer.merged or not layer.active_adapters:
        return layer.get_base_layer()
    try:
        merged = copy.deepcopy(layer)
        merged.merge()
    except Exception as error:
        raise HeadError(
            f"the adapter on the output layer ({type(layer).__name__}) cannot be worked into its "
            f"weight ({type(error).__name__}: {error}); merge it into the model before loading"
        ) from error
    return merged.get_base_layer()

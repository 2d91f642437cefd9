"""Tiny configs of model families, by name: promised, found to work as well, and refused."""

from typing import Any

import transformers

from support.tiny import EOS, SHAPE, VOCAB, gpt2_config, llama_config

ALL_HEADS = {**SHAPE, "num_key_value_heads": 4}
PLAIN = {k: v for k, v in SHAPE.items() if k not in ("num_key_value_heads", "intermediate_size")}
GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ENDS = {"bos_token_id": 1, "eos_token_id": EOS}
WINDOW = {"sliding_window": 6}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,  # keys and values of different widths
    "first_k_dense_replace": 1,
}


def config(family: str, *shapes: dict[str, Any], **settings: Any) -> Any:
    """A config of transformers' class for the family, its shapes taken together."""
    merged: dict[str, Any] = {}
    for shape in (*shapes, settings):
        merged |= shape
    return getattr(transformers, f"{family}Config")(**merged)


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **settings}}


PROMISED: dict[str, Any] = {
    "llama": llama_config(),
    "llama-tied": llama_config(tie_word_embeddings=True),
    "gpt2": gpt2_config(),
    "qwen2": config("Qwen2", SHAPE),
    "qwen3": config("Qwen3", SHAPE, head_dim=8),
    "mistral-window": config("Mistral", SHAPE, WINDOW),
    "gemma2": config("Gemma2", SHAPE, MIXED, head_dim=8, final_logit_softcapping=2.0),
    "gemma3": config("Gemma3Text", SHAPE, MIXED, head_dim=8),
    "granite": config("Granite", SHAPE, logits_scaling=3.0, attention_multiplier=0.3),
    "cohere": config("Cohere", SHAPE, logit_scale=0.3),
    "cohere2": config("Cohere2", SHAPE, MIXED, logit_scale=0.3),
    "phi": config("Phi", ALL_HEADS),
}

OTHERS: dict[str, Any] = {
    "llama-llama3": llama_config(
        **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
        | {"max_position_embeddings": 128}
    ),
    "llama-yarn": llama_config(**rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama-dynamic": llama_config(**rope("dynamic", factor=4.0)),
    "qwen2-window": config(
        "Qwen2", SHAPE, WINDOW, use_sliding_window=True, max_window_layers=1
    ),
    "gemma": config("Gemma", SHAPE, head_dim=8),
    "gemma3n": config(
        "Gemma3nText", SHAPE, WINDOW, head_dim=8, num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
    ),
    "gpt-neox": config("GPTNeoX", PLAIN, intermediate_size=48),
    "gptj": config("GPTJ", GPT, ENDS, rotary_dim=4),
    "gpt-bigcode": config("GPTBigCode", GPT, ENDS),
    "opt": config("OPT", PLAIN, ffn_dim=48, word_embed_proj_dim=32),
    "falcon": config("Falcon", PLAIN, new_decoder_architecture=True, num_kv_heads=2),
    "mpt": config(
        "Mpt", ENDS, vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=128
    ),
    "stablelm": config("StableLm", SHAPE),
    "starcoder2-window": config("Starcoder2", SHAPE, WINDOW),
    "olmo2": config("Olmo2", SHAPE),
    "olmo3": config("Olmo3", SHAPE, MIXED),
    "phi3-window": config("Phi3", SHAPE, WINDOW),
    "smollm3": config("SmolLM3", SHAPE, no_rope_layers=[1, 0]),
    "exaone4": config("Exaone4", SHAPE, MIXED),
    "gpt-oss": config("GptOss", SHAPE, MIXED, head_dim=8, num_local_experts=4),
    "mixtral": config("Mixtral", SHAPE, num_local_experts=4),
    "qwen3-moe": config("Qwen3Moe", SHAPE, EXPERTS, head_dim=8),
    "granite-moe": config("GraniteMoe", SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "deepseek-v3": config("DeepseekV3", ALL_HEADS, LATENT),
}  # fmt: skip

# Each with what the refusal must say.
REFUSED: dict[str, tuple[Any, str]] = {
    "bloom": (
        config("Bloom", vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
        "BloomForCausalLM does not run with the decoder's own key-value cache",
    ),
    "falcon-alibi": (
        config("Falcon", PLAIN, alibi=True, multi_query=False),
        "FalconForCausalLM does not run with the decoder's own key-value cache",
    ),
    "gpt-neo": (
        config(
            "GPTNeo", vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4,
            attention_types=[[["global", "local"], 1]], window_size=256,
        ),
        "GPTNeoForCausalLM limits its attention by window_size=256",
    ),
    "llama4": (
        config(
            "Llama4Text", SHAPE, head_dim=8, intermediate_size_mlp=48, num_local_experts=2,
            attention_chunk_size=6, no_rope_layers=[1, 0], moe_layers=[],
        ),
        "chunked_attention",
    ),
    "bart": (
        config(
            "Bart", vocab_size=VOCAB, d_model=32, decoder_layers=2, decoder_attention_heads=4,
            decoder_ffn_dim=48, is_decoder=True, is_encoder_decoder=False,
        ),
        "gives other logits from the decoder's key-value cache and masks",
    ),
    "bert": (
        config("Bert", PLAIN, intermediate_size=48, is_decoder=True),
        "does not give the model's own logits",
    ),
    "modernbert-decoder": (
        config("ModernBertDecoder", PLAIN, intermediate_size=48, local_attention=6),
        "limits its attention by local_attention=6",
    ),
    "mamba": (
        config("Mamba", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2),
        "linear_attention|stateful",
    ),
    "jamba": (
        config(
            "Jamba", SHAPE, num_experts=2, attn_layer_period=2, attn_layer_offset=1,
            use_mamba_kernels=False,
        ),
        "linear_attention|stateful",
    ),
    "recurrent-gemma": (
        config("RecurrentGemma", SHAPE, num_hidden_layers=3, attention_window_size=6),
        "linear_attention|stateful",
    ),
    "qwen3-next": (config("Qwen3Next", SHAPE, head_dim=8), "linear_attention|stateful"),
    "falcon-h1": (config("FalconH1", SHAPE), "hybrid|stateful"),
}  # fmt: skip

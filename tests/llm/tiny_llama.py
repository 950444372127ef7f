"""Real language models that need no download: random Llamas with a tokenizer of their own, and adapters for them.

    folder = make_tiny_llama(tmp_path / "model")
    adapter = make_lora_adapter(tmp_path / "adapter", folder, seed=1)

They say nothing sensible, but all of an inference engine runs as with any other model: the same files, tokenizer, chat
template, attention, KV cache, sampling. Made in about a second, and the same for the same arguments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
# Enough for words to become tokens of several letters.
_TEXT = [
    "A headrace is the channel that brings water, fast, to the wheel.",
    "Requests wait until a replica has room, and the answer streams back token by token.",
    "The quick brown fox jumps over the lazy dog while the model counts from one to ten.",
    "What is the capital of France? The capital of France is Paris, a city on the river Seine.",
    'Answer in JSON: {"name": "Ada", "age": 36, "likes": ["numbers", "engines"], "true": false}',
    "You are a helpful assistant. Tell me a story about a small mill, its miller and the cat of the mill.",
]


def make_tiny_llama(
    folder: Path,
    *,
    hidden_size: int = 128,
    layers: int = 2,
    vocabulary: int = 512,
    max_position: int = 2048,
    seed: int = 0,
) -> Path:
    """Writes a random Llama in the form of the Hugging Face hub, with tokenizer and chat template; returns the folder.

    Args:
        folder: made if it is missing.
        hidden_size: a multiple of 64. A step on two cores takes about 1 ms with 128 and 2 layers.
        layers: of the transformer.
        vocabulary: tokens at most; the tokenizer is trained on little text and may have fewer. The model has as many.
        max_position: tokens of prompt and answer together.
        seed: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(min(vocabulary, 1024), max_position)
    tokenizer.save_pretrained(folder)
    heads = hidden_size // 64
    config = LlamaConfig(
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=max_position,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        # Far apart, so that two ways of adding up the same sum still find the same token.
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def _train_tokenizer(vocabulary: int, max_position: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL_TOKENS,
        # Every byte is a token, so that any text can be read and any JSON written.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=_SPECIAL_TOKENS[3:],
        model_max_length=max_position,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_lora_adapter(folder: Path, model: Path, *, rank: int = 4, seed: int = 1) -> Path:
    """Writes a LoRA adapter for a model of `make_tiny_llama`, in the form of `peft`; returns the folder.

    Args:
        folder: made if it is missing.
        model: the folder of the base model.
        rank: of its matrices.
        seed: of its weights. They are large enough to change what the model says.
    """
    import torch
    from safetensors.torch import save_file

    base = json.loads((model / "config.json").read_text())
    hidden = base["hidden_size"]
    head = hidden // base["num_attention_heads"]
    out_features = {"q_proj": hidden, "v_proj": head * base["num_key_value_heads"]}
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(base["num_hidden_layers"]):
        for name, out in out_features.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden, generator=generator)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank * 2,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(out_features),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder

"""A real GGUF model that needs no download: a random Llama with a vocabulary of bytes and some words.

file = make_tiny_gguf(tmp_path / "tiny.gguf")
"""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WORDS = ["\u2581the", "\u2581mill", "\u2581water", "\u2581wheel", "er", "ing", "\u2581", "é", "{", "}", '"', ":", ","]
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def make_tiny_gguf(
    file: Path, *, hidden_size: int = 64, layers: int = 2, max_position: int = 512, seed: int = 0
) -> Path:
    """Writes the model; returns the file.

    Args:
        file: its folder must be there.
        hidden_size: a multiple of 32.
        layers: of the transformer.
        max_position: tokens of prompt and answer together.
        seed: of the weights.
    """
    import gguf
    import numpy as np

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    types = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(_WORDS)]
    heads, width = 2, hidden_size * 2
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(max_position)
    writer.add_embedding_length(hidden_size)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden_size // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)

    numbers = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> None:
        writer.add_tensor(name, (numbers.standard_normal(shape) * 0.3).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden_size, dtype=np.float32))

    weights("token_embd.weight", len(tokens), hidden_size)
    for layer in range(layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        weights(f"{block}.attn_q.weight", hidden_size, hidden_size)
        weights(f"{block}.attn_k.weight", hidden_size // heads, hidden_size)
        weights(f"{block}.attn_v.weight", hidden_size // heads, hidden_size)
        weights(f"{block}.attn_output.weight", hidden_size, hidden_size)
        ones(f"{block}.ffn_norm.weight")
        weights(f"{block}.ffn_gate.weight", width, hidden_size)
        weights(f"{block}.ffn_up.weight", width, hidden_size)
        weights(f"{block}.ffn_down.weight", hidden_size, width)
    ones("output_norm.weight")
    weights("output.weight", len(tokens), hidden_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file

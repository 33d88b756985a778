"""Write a Llama folder as float32 GGUF. Run as `gguf_convert.py FOLDER OUT`, with `gguf` at hand.

The vendored converter refuses tokenizers that it has no digest of, so this one names the word
pattern itself. As llama.cpp's rotary embedding pairs neighbours, rows of q and k are interleaved.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def main(folder: Path, out: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "llama")
    _write_shape(writer, config)
    _write_vocabulary(writer, folder, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, values in _tensors(folder / "model.safetensors"):
        for part, count in heads.items():
            if part in name:
                values = _interleaved(values, count)
        writer.add_tensor(_their_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer, config) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _write_vocabulary(writer, folder: Path, config) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = dict(tokenizer["model"]["vocab"])
    special = {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    ids |= special
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for text, token_id in ids.items():
        tokens[token_id] = text
        is_special = text in special
        types[token_id] = gguf.TokenType.CONTROL if is_special else gguf.TokenType.NORMAL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(value=False)
    own = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    writer.add_chat_template(own["chat_template"])


def _tensors(path: Path):
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(bytes(data[:8]), "little")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    for name, about in header.items():
        assert about["dtype"] == "BF16", about
        first, last = about["data_offsets"]
        raw = data[8 + length + first : 8 + length + last].view(np.uint16)
        yield name, (raw.astype(np.uint32) << 16).view(np.float32).reshape(about["shape"])


def _interleaved(values, heads: int):
    rows, width = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, width)
    return halves.swapaxes(1, 2).reshape(rows, width)


def _their_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{INNER[part]}.weight"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

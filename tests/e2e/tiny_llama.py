"""The shape of the random Llama that `transformers` writes for these tests."""

from transformers import LlamaConfig


def tiny_llama(vocabulary_size: int) -> LlamaConfig:
    """Return a configuration small enough to be made, served and trained in a test."""
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )

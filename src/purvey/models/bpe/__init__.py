"""What lies inside a `tokenizer.json`: its parts, the bytes of its tokens, its training."""

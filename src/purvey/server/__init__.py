"""The HTTP face: OpenAI's shapes where OpenAI has one, ours elsewhere; never a tensor."""

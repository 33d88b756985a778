"""Resources in OpenAI's shapes, one module each, checked with the official client."""

"""Recordings in OpenAI's shapes: written down, in every format that its client asks for."""

"""What an output must look like: checked here word by word, enforced by the engine."""

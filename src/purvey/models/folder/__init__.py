"""Files of a model folder: JSON, safetensors and the manifest, read with suspicion."""

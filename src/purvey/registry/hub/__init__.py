"""Models of the Hugging Face hub: looked up, fetched, checked, put into a model root."""

"""What names mean beside those of models, and how what they mean is served."""

"""Networks of other modalities than text that `transformers` computes, served and trained."""

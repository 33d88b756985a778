"""Who may compute, and what of it is known already. Decides over plain values; knows no tensor."""

"""Jobs of kind `estimate`: what a run would take, said before it runs."""

"""Layers of a served decoder, linear ones by precision; no row depends on other rows."""

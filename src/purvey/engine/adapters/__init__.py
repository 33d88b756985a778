"""Adapters beside one base: many in one batch, each computed for its own rows alone."""

"""Linear layers of a served decoder, by precision; a row's result never depends on other rows."""

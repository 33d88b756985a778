"""Values, checks and protocols that the planes share: no framework, no I/O, no tensor."""

"""Ways to attend: one protocol, one file per implementation, all equal to `reference`."""

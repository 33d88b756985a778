"""Files of every accepted format to one raw table; nothing is written from an archive."""

"""Which files have been read whole and found to be what they should be. Knows paths and digests."""

"""What was used, by whom: rows of the append-only ledger and sums over them."""

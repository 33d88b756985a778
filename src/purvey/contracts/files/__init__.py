"""Files of rows, as both planes speak of them."""

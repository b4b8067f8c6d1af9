"""Between the maps of a backbone and the maps that a dense head expects."""

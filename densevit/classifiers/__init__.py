"""Image classification: what official weights fit, and what attention maps are read from."""

"""Parts of segmentors."""

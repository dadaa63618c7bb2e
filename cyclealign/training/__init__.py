"""One interaction's learning: lists to loss to weights."""

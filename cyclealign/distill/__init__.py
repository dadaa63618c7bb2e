"""Distillers on sentence-transformers: thin adapters from its trainers to the losses, and one recipe per method."""

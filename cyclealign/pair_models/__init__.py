"""Rankers that read query and document apart and join them late, as modules of sentence-transformers' CrossEncoder."""

"""Demonstration sets and ranking templates made good before a run pays for them."""

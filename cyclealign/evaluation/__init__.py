"""Offline evals: what a ranker, a policy or a file of responses is worth, with error bars."""

"""Offline preference evals: what a ranker, a checkpoint or a file of responses is worth, with error bars."""

"""Networks on this machine: loaded, saved, and the log-probabilities that they give."""

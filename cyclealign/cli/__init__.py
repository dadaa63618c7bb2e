"""The commands: words of the command line to one call each, nothing else."""

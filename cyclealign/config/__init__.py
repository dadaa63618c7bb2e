"""What a user may write into a YAML file, and every way in which it can be wrong."""

"""The methods as distillers on sentence-transformers: one family of files per method."""

"""Everything that ranks: one module a ranker, each a class that implements ``cyclealign.types.Ranker``."""

"""Who puts candidates in order, and how two orders compare."""

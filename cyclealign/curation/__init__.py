"""Making demonstrations and the ranking prompt good before money is spent on a run: one file a job."""

"""What the report page is made of; the page itself is ``cyclealign.report``."""

"""Teachers' scores: made once, kept, calibrated, read and written in the field's formats."""

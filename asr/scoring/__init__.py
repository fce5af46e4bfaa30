"""Word error rates of transcripts, and whether one result is better than another; no torch here."""

"""The command line: it reads arguments; the other packages do the work."""

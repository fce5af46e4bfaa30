"""The command line: arguments only; the work is done by the packages above."""

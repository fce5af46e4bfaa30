"""Texts as a model sees them: normalisation, tokens, numbers as words."""

"""Corpora: downloads, layouts, recipes, and projects from a folder of recordings."""

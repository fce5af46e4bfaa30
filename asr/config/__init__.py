"""Configurations: YAML files, their sections and ranges, and what the machine allows."""

"""Experiment files and the dataclasses they are checked against."""

"""One thin program a stage."""

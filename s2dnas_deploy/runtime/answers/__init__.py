"""Answers for images that are named: a record a line, in an output that can be gone on with."""

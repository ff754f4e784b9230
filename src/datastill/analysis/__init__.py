"""Measurements of teachers and of synthetic sets other than students' accuracy. One question per file."""

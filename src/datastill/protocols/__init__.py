"""Protocols: how students are trained on a set before they are scored. One file each."""

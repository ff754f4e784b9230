"""Parametrizations: from the parameters that are learned to images. One file each."""

"""Parametrizations: from learned parameters to images. One file each."""

"""Plug-ins: one extra loss term each. One file each."""

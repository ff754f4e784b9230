"""Distillation methods. One file each."""

"""``python -m datastill``."""

from datastill.cli import main

main()

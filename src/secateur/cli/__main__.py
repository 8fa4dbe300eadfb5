"""`python -m secateur.cli`."""

from secateur.cli import main

main()

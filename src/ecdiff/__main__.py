"""`python -m ecdiff` is the `ecdiff` command."""

from ecdiff.cli import main

main()

"""`python -m dynfocus.cli` is `dynfocus`."""

from . import main

main()

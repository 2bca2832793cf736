"""`python -m mailmill`."""

from mailmill.cli import main

main()

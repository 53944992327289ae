"""`python -m ctbasis.cli`, the console command without its script."""

from ctbasis.cli import main

main()

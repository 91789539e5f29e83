"""`python -m calotype.ops` is the `calotype` command."""

from calotype.ops.cli import main

main()

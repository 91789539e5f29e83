"""`python -m calotype.ops` is the `calotype` command."""

from calotype.ops.cli.main import main

main()

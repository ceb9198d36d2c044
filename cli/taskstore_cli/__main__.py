"""`python -m taskstore_cli` is the `taskstore` command."""

from taskstore_cli.main import main

if __name__ == "__main__":
    main()

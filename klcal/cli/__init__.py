"""The command line: one command per file; ``main`` is where errors become text and exit codes."""

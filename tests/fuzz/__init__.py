"""Coverage-guided fuzzing of what reads files; not part of the tests, see `__main__`."""

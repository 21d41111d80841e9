"""The wire: `platform.proto`, the code generated from it (not in git), and the method table."""

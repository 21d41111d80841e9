"""The `dp` command: a thin edge over the synchronous library.

A command reads its options, calls the client once or in a loop, and prints. What things mean is
decided in `dataplatform`. One module per noun; `main` is the entry point and lists the modules;
`apps` is what they register with; `outputs`, `parsing`, `errors`, `progress` are what they share.

Starting fast is a feature: at import time a module here loads nothing but the standard library and
Typer. The client (`dataplatform`) and Rich are imported where they are used.
"""

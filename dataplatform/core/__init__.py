"""What things mean: semantics once, between the wire and the engine.

One request = one core call = one unit of work = one engine commit. An operation is an async
function that takes a `Unit` and works on it; a transaction runs several on the same unit.
"""

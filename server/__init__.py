"""The server: listeners, dispatch, sessions, background tasks. What things mean is in the core."""

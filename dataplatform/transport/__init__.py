"""Frames on a socket, used by both ends (D6): addresses, codec, connections, the server side."""

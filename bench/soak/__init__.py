"""An hour of mixed load, paced: does the server's memory stay flat, and is all of it right.

Every part of the load keeps a model of what it has written and compares what it reads with it, and
deletes what it made, so that the amount of data stays bounded.
"""

"""What programs ask of the mount, one module per subject; nothing here knows of `/dev/fuse` (D14).

Arguments are numbers, names in bytes and `Caller`; results are nodes and plain values. Errors are
`PlatformError` or `OSError`: a door makes the errno of either (`errno_of`).
"""

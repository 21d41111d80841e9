"""The mount: unmodified programs on the platform's files, tables and streams.

Two processes per mount. The *keeper* (`keeper`, with `mounting`, `syscalls`) opens /dev/fuse,
mounts, and holds the kernel's connection; it imports the standard library only and stays small. The
*worker* (`process` around `worker`) answers the kernel. When a worker dies or is upgraded, its
successor goes on with the same connection, and with what the predecessor left in the `Handover`.

`options` says what to mount where; `link` is what keeper and worker tell each other; `fstab` is
`mount.dp`, for /etc/fstab; `stats` counts.
"""

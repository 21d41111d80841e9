"""The door on the kernel: what `/dev/fuse` says as calls of `operations`, and what they answer."""

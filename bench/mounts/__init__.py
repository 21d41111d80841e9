"""Mounts beside each other: ours, the peers' and a directory of the local disk, in one run.

`python -m bench.mount` is the command (`bench/mount.py`). `works.py` lists what is measured and
what is asked; `places.py` is the seam that all sides stand behind; `parts.py` is the seam of the
loads, all of them ordinary system calls, or programs that know nothing of us.
"""

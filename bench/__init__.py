"""Measurements: each kind of work, against the disk and against peers, in one run.

`dp bench` and `make bench` are the commands. Installed, this folder is `dataplatform_bench`. Start
at `campaigns.run`; `works.py` lists what is measured and what is asked, `sides.py` is the seam that
ours, the disk and the peers stand behind. `soak/` is an hour of mixed load.
"""

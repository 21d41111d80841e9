"""`python -m bench` is `dp bench --peers`."""

from __future__ import annotations

import sys

from dataplatform_clients.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["bench", "--peers", *sys.argv[1:]]))

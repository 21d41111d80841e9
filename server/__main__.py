"""`python -m dataplatform_server`."""

import sys

from . import grpc_tls as _grpc_tls  # noqa: F401 - before grpc is there
from .main import main

sys.exit(main())

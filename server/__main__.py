"""`python -m dataplatform_server`."""

import sys

from .main import main

sys.exit(main())

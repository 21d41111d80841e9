"""One module per service of `platform.proto`. A handler unpacks, calls the core once, packs.

Importing this package registers every handler: see `dispatch.rpc`.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

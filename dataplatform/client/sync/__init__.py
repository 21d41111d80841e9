"""The synchronous surface: what `import dataplatform` gives.

Each wrapper names its arguments, says what they mean, and runs the coroutine of the same name to
its end. It adds nothing to the meaning: that is in the modules one level up.
"""

from .client import Client, connect
from .files import File
from .streams import Consumer, Delivery, Producer, Stream
from .tables import Table
from .transactions import Transaction, TransactionStream, TransactionTable

__all__ = [
    "Client",
    "Consumer",
    "Delivery",
    "File",
    "Producer",
    "Stream",
    "Table",
    "Transaction",
    "TransactionStream",
    "TransactionTable",
    "connect",
]

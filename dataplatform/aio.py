"""`dataplatform` with `await`: the same operations as coroutines and asynchronous iterators.

    async with dataplatform.aio.connect() as dp:
        await dp.mkdir("/projects/cars", parents=True, exist_ok=True)
        async with dp.open("/projects/cars/front.jpg", "wb") as f:
            await f.write(data)
        async for entry in dp.scandir("/projects"):
            print(entry.name)
        stream = await dp.create_stream("/projects/cars/events")
        async with await stream.producer() as p:
            await p.send("telemetry", b"...")

Arguments and errors are those of the synchronous methods, where they are documented. Any number of
coroutines may use one client. Files are opened in binary modes only.
"""

from typing import TYPE_CHECKING, Any

from .client.clients import Client, connect
from .client.handles import FileHandle as File
from .client.streams import Stream
from .client.tables import Table
from .client.transactions import Transaction, TransactionStream, TransactionTable

if TYPE_CHECKING:
    from .client.consumers import Consumer
    from .client.producers import Delivery, Producer

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


def __getattr__(name: str) -> Any:
    # Importing the record codec takes a tenth of a second: only for those who need it.
    if name == "Consumer":
        from .client.consumers import Consumer

        return Consumer
    if name in ("Producer", "Delivery"):
        from .client import producers

        return getattr(producers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

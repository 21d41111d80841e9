"""The client library: every operation once, as a coroutine over a channel.

`runtime` says how an operation waits, `connection` how a request survives a lost connection; one
module per subject holds the operations. `dataplatform.aio` gives the coroutines as they are;
`sync` runs the same ones to their end over blocking connections, without an event loop.
"""

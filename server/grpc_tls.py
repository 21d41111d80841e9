"""No TLS 1.2 over gRPC. Imported before anything that imports grpc, which reads this once.

gRPC for Python has no setting for the least version of TLS, only one for the ciphers of 1.2 (those
of 1.3 are always on), and an empty list is refused. So 1.2 is left with one that needs a shared
key, of which there is none: a client of 1.2 finds no cipher (tests/integration/test_tls.py).
"""

import os

CIPHERS = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-PSK-AES128-CBC-SHA",
)

os.environ["GRPC_SSL_CIPHER_SUITES"] = ":".join(CIPHERS)

"""A server that speaks TLS, and no AMQP."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import trustme
from relay import shut


@contextlib.contextmanager
def tls_server(
    certificate: trustme.LeafCert, clients: trustme.CA | None = None, version: ssl.TLSVersion | None = None
) -> Iterator[int]:
    """Give its port. Each client must be certified by `clients`, if that is given; `version` is its newest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
    certificate.configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)

    def serve() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                with listener.accept()[0] as peer, contextlib.suppress(OSError):  # who does not like it
                    context.wrap_socket(peer, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        shut(listener)

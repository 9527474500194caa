"""A TCP relay between a script and its broker, for faults of the network."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable


class Relay:
    """Passes on what both sides send, until it is told to do it badly.

    Args:
        port: of the broker, on this machine.

    Attributes:
        url: where scripts reach the broker through the relay.
        delay: seconds by which each piece from the broker comes late.
        piece: bytes that are passed on at a time.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"amqp://guest:guest@127.0.0.1:{self._listener.getsockname()[1]}/%2F"
        self.sockets: list[socket.socket] = []
        self.delay = 0.0
        self.piece = 65536
        self._thawed = threading.Event()
        self._thawed.set()
        self._breaks_frames = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection, as a broken cable that both sides notice."""
        cut, self.sockets = self.sockets, []
        shut(*cut)
        for each in cut:
            each.close()

    def cut_in_frame(self) -> None:
        """Close a connection in the middle of a frame: the next piece is passed on but for its last three bytes."""
        self._breaks_frames = True

    def freeze(self) -> None:
        """Pass nothing on in either direction, and close nothing, as a firewall that has forgotten its connections."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Pass things on again."""
        self._thawed.set()

    def close(self) -> None:
        """End the relay with its connections."""
        shut(self._listener)
        self._listener.close()
        self.cut()
        self.thaw()

    def _accept(self) -> None:
        while True:
            try:
                here = self._listener.accept()[0]
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self._port))
            except OSError:  # the broker is down
                here.close()
                continue
            self.sockets += [here, there]
            for source, target, delay in ((here, there, lambda: 0.0), (there, here, lambda: self.delay)):
                threading.Thread(target=self._copy, args=(source, target, delay), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, delay: Callable[[], float]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                time.sleep(delay())
                self._thawed.wait()
                if self._breaks_frames:
                    self._breaks_frames = False
                    target.sendall(data[:-3])
                    break
                target.sendall(data)
        self._thawed.wait()
        shut(source, target)


def shut(*sockets: socket.socket) -> None:
    """End connections, and whoever waits for them."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)

"""A TCP relay between a script and its broker, for faults of the network."""

import contextlib
import socket
import threading
import time

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"  # the whole frame


class Relay:
    """Passes on what both sides send, until it is told to do it badly.

    It leads to a port of this machine. Scripts find it at an address of this machine, and a port of its own or any.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", at: int = 0) -> None:
        self._port = port
        self._listener = socket.create_server((host, at), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        at = f"[{host}]" if ":" in host else host
        self.url = f"amqp://guest:guest@{at}:{self._listener.getsockname()[1]}/%2F"
        self.sockets: list[socket.socket] = []  # one to each side
        self.delay = 0.0  # seconds by which each piece from the broker comes late
        self.piece = 65536  # bytes that are passed on at a time
        self.pause = 0.0  # seconds after each piece to the broker, as on a slow link
        self.heartbeats = 0  # that the scripts have sent
        self._passes = threading.Event()
        self.thaw()
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
        self._passes.clear()

    def thaw(self) -> None:
        self._passes.set()

    def close(self) -> None:
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
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, target, source is there), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, from_broker: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                if from_broker:
                    time.sleep(self.delay)
                else:
                    self.heartbeats += data.count(HEARTBEAT)
                    time.sleep(self.pause)
                self._passes.wait()
                if self._breaks_frames:
                    self._breaks_frames = False
                    target.sendall(data[:-3])
                    break
                target.sendall(data)
        self._passes.wait()
        shut(source, target)


def shut(*sockets: socket.socket) -> None:
    """End connections, and whoever waits for them."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)

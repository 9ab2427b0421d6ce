"""A relay before a server, by which the tests take it off the network for a while: whatever it holds stays."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Relay:
    """Listens on a port of its own, and passes connections on to a server.

    Args:
        port: The port of the server, on this machine.
    """

    def __init__(self, port: int):
        self._target = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        """Refuse connections, and cut those there are."""
        # a thread that waits for a connection does not see that its socket is closed
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Have the server off the network as long as the context is open."""
        self.close()
        try:
            yield
        finally:
            self._listen(self.port)

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

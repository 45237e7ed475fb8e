"""Several processes on this machine, for tests."""
import socket


def free_port() -> int:
    """A TCP port that nobody has: tests of two checkouts may run at once."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]

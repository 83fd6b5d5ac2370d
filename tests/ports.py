"""Ports of 127.0.0.1 for servers that the tests start."""

import random
import socket
from contextlib import ExitStack

RANGE = range(12_000, 32_000)  # below the ephemeral ports, so that nobody takes them while a server is down


def free_ports(count: int) -> list[int]:
    """So many, one after the other, that nothing listens on now."""
    while True:
        first = random.SystemRandom().choice(RANGE)
        ports = list(range(first, first + count))
        with ExitStack() as bound:
            try:
                for port in ports:
                    bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return ports

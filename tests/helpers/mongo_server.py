"""A MongoDB wire-protocol **test** server on mongomock, for machines without a mongod. Never keep results in it.

Real pymongo clients in any number of processes talk to it, so that maggma's MongoStore and GridFSStore, FireWorks and
jobflow-remote run unchanged. What it is not: a MongoDB. Data live in the memory of this one process and are gone when
it ends; one command runs at a time; queries, updates and aggregations mean what mongomock takes them to mean; indices
only enforce uniqueness; there are no transactions, change streams, renames, users or encryption, and a command it does
not know is refused with code 59. A test that passes here still has to pass on a real server.

``PYTHONPATH=tests python -m helpers.mongo_server [--host 127.0.0.1] [--port 0]`` prints ``listening HOST PORT`` and
serves until it is killed. In tests use `running_server`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bson
from bson.codec_options import CodecOptions

from helpers.mongo_commands import Document, Engine

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_CHECKSUM_FLAG, _MORE_TO_COME_FLAG = 1, 2
_DECODING: CodecOptions[dict[str, Any]] = CodecOptions(document_class=dict, tz_aware=False)


class _Handler(socketserver.BaseRequestHandler):
    """One client connection."""

    server: Server

    def handle(self) -> None:
        """Read messages and answer them until the client goes."""
        try:
            while True:
                length, request, _, operation = struct.unpack("<iiii", self._read(16))
                payload = self._read(length - 16)
                if operation == _OP_MSG:
                    self._answer_message(request, payload)
                elif operation == _OP_QUERY:
                    self._answer_query(request, payload)
                else:
                    return
        except (EOFError, ConnectionError):
            return

    def _read(self, size: int) -> bytes:
        held = bytearray()
        while len(held) < size:
            chunk = self.request.recv(min(size - len(held), 1 << 20))
            if not chunk:
                raise EOFError
            held += chunk
        return bytes(held)

    def _answer_message(self, request: int, payload: bytes) -> None:
        (flags,) = struct.unpack_from("<I", payload)
        end = len(payload) - (4 if flags & _CHECKSUM_FLAG else 0)
        command: Document = {}
        sequences: Document = {}
        position = 4
        while position < end:
            kind = payload[position]
            position += 1
            (size,) = struct.unpack_from("<i", payload, position)
            if kind == 0:
                command = bson.decode(payload[position : position + size], _DECODING)
            else:
                zero = payload.index(b"\0", position + 4)
                name = payload[position + 4 : zero].decode()
                sequences[name] = bson.decode_all(payload[zero + 1 : position + size], _DECODING)
            position += size
        reply = bson.encode(self.server.engine.answer({**command, **sequences}))
        if not flags & _MORE_TO_COME_FLAG:
            head = struct.pack("<iiiiIB", 21 + len(reply), next(self.server.numbers), request, _OP_MSG, 0, 0)
            self.request.sendall(head + reply)

    def _answer_query(self, request: int, payload: bytes) -> None:
        """Answer the legacy message clients may greet with."""
        zero = payload.index(b"\0", 4)
        reply = bson.encode(self.server.engine.answer(bson.decode(payload[zero + 9 :], _DECODING)))
        head = struct.pack("<iiiiiqii", 36 + len(reply), next(self.server.numbers), request, _OP_REPLY, 8, 0, 0, 1)
        self.request.sendall(head + reply)


class Server(socketserver.ThreadingTCPServer):
    """A listening server; ``server_address`` says where."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.engine = Engine()
        self.numbers = itertools.count(1)
        super().__init__((host, port), _Handler)


@contextmanager
def running_server(host: str = "127.0.0.1") -> Iterator[str]:
    """Serve in a process of its own on a free port for the length of a block, and yield its ``mongodb://`` address."""
    # a server needs one thread per connection, not one per core
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.mongo_server", "--host", host, "--with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if words[:1] != ["listening"]:
            raise RuntimeError(f"the MongoDB test server did not start (exit code {process.poll()})")
        yield f"mongodb://{words[1]}:{words[2]}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="MongoDB wire-protocol test server on mongomock; in memory only.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    chosen = parser.parse_args()
    if chosen.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO)
    with Server(chosen.host, chosen.port) as server:
        print("listening", *server.server_address[:2], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

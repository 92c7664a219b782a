"""One submission to a queue at a time: what is in the queue must not change between looking and adding.

The turn is one document in the queue's own database. Whoever has it moves a counter in it; where the counter stands
still the holder is dead, and the next one takes the turn and mends what was being added (clocks are not compared).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phonosmith.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pymongo.database import Database

BEAT_S = 2.0
DEAD_AFTER_S = 30.0
"""How long a holder may show no sign of life, s."""
_TURN = {"_id": "submission"}


@dataclass
class Turn:
    """The turn of one submission in a database."""

    database: Database[Any]
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.documents = self.database["phonosmith_turn"]

    @contextlib.contextmanager
    def taken(self, mend: Callable[[Sequence[str]], None], wait: Callable[[str], None]) -> Iterator[None]:
        """Have the turn: ``mend`` gets the uuids of jobs an earlier holder was adding; ``wait`` says who has it."""
        unfinished = self._take(wait)
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(over,), daemon=True)
        heart.start()
        try:
            if unfinished:
                mend(unfinished)
                self._set(adding=[])
            yield
        finally:
            over.set()
            heart.join()
            self.documents.update_one(self._mine, {"$set": {"owner": None}})

    @contextlib.contextmanager
    def adding(self, uuids: Sequence[str]) -> Iterator[None]:
        """Leave word of what is being added, for the next one, should this process end before it is all there."""
        self._set(adding=list(uuids))
        yield
        self._set(adding=[])

    @property
    def _mine(self) -> dict[str, str]:
        return {**_TURN, "owner": self.owner}

    def _set(self, **values: object) -> None:
        if self.documents.update_one(self._mine, {"$set": values}).matched_count == 0:
            raise ConfigurationError(
                "Another submission took over, because this one showed no sign of life.", "Submit again."
            )

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT_S):
            # a server that is away for a moment is no reason to stop
            with contextlib.suppress(Exception):
                self.documents.update_one(self._mine, {"$inc": {"beat": 1}})

    def _take(self, wait: Callable[[str], None]) -> list[str]:
        """Wait for the turn and return what the one before left half-made."""
        from pymongo.errors import DuplicateKeyError

        mine = {"owner": self.owner, "beat": 0, "who": f"{getpass.getuser()}@{socket.gethostname()}, {os.getpid()}"}
        seen, since = None, time.monotonic()
        while True:
            with contextlib.suppress(DuplicateKeyError):
                self.documents.insert_one({**_TURN, **mine, "adding": []})
                return []
            there = self.documents.find_one(_TURN) or {}
            sign = there.get("owner"), there.get("beat")
            if sign != seen:
                seen, since = sign, time.monotonic()
            if sign[0] is None or time.monotonic() - since > DEAD_AFTER_S:
                before = {**_TURN, "owner": sign[0], "beat": sign[1]}
                if self.documents.update_one(before, {"$set": mine}).matched_count:
                    return list(there.get("adding") or [])
            else:
                wait(f"waiting for the submission of {there.get('who')}")
            time.sleep(min(0.2, DEAD_AFTER_S / 10))

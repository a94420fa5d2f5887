"""What the page of a fleet costs per event, and how many bytes an event takes on the way:
``python -m tests.bench.fleet``. Each message goes to two pictures, as it does there.
"""

from __future__ import annotations

import statistics
import time

from tests.fleet.test_merged import from_agent
from tests.fleet.test_message import MESSAGES, ROWS
from zktrace.fleet.merged import Merged
from zktrace.fleet.message import decode
from zktrace.store.picture import Picture

_AGENTS = 10
_ROUNDS = 5


def main() -> None:
    events = sum(map(len, ROWS.values()))
    costs = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        for data in MESSAGES:
            decode(data)
        unpacking = (time.process_time() - begun) * _AGENTS
        pictures = []
        for _ in range(2):
            merged = Merged(20_000)
            pictures.append((merged, Picture(engine=merged)))
        messages = [message for index in range(_AGENTS) for message in from_agent(index)]
        begun = time.process_time()
        for message in messages:
            for merged, picture in pictures:
                merged.take_message(message)
                picture.collect()
        costs.append((time.process_time() - begun + unpacking) / (_AGENTS * events))
    print(f"CPU of the page per event: {statistics.median(costs) * 1e6:.0f} us")
    print(f"bytes of a message per event: {sum(map(len, MESSAGES)) / events:.0f}")


if __name__ == "__main__":
    main()

"""PLACE commands as `hdstack.net.placing` asks for them: sent a few a turn, answers gathered.

Rare work, a few commands a burst, so in plain Python. No turn waits: what finds no room in the
command ring goes in a later one, and a command without an answer is lost after 5 s, by then given
up in the tables. It may be carried out all the same one day; `drain` knows of it.
"""

import logging

from ..driver import AREA_BYTES, Card
from ..errors import ConfigurationError, DeviceError
from ..net import placing
from ..tcp import tables

__all__ = ["Placement"]

_log = logging.getLogger(__name__)

_TURN = 8
"""Commands sent in one turn."""
_UNDER_WAY = 32
"""Commands without an answer, at most: others of the stack find room in the ring."""
_DRAIN_SECONDS = 1.0


class Placement:
    """Sends commands to `card` for the holds of `s`, whose area is that of its header memory.

    Raises ConfigurationError if the area is too small for the tables.
    """

    def __init__(self, card: Card, s):
        if tables.AREA_BYTES > AREA_BYTES:
            raise ConfigurationError(
                f"the tables need {tables.AREA_BYTES} bytes of header memory, {AREA_BYTES} are kept"
            )
        self._card, self._s = card, s
        self._area = card.device.header.layout.area
        self._under_way: dict[int, tuple[int, int]] = {}  # cookie -> queue, when it is lost
        self._lost: dict[int, int] = {}  # cookie -> queue

    def __len__(self) -> int:
        """Commands that an answer is awaited of."""
        return len(self._under_way)

    def turn(self, now_ns: int) -> None:
        """Take answers, note what is lost, send what is due."""
        commands, s = self._card.commands, self._s
        if self._under_way or self._lost:
            commands.poll()
        for cookie, (queue, until) in list(self._under_way.items()):
            status = commands.status(cookie)
            if status is not None:
                placing.place_answered(s, cookie, bool(status), now_ns)
            elif now_ns >= until:
                self._lost[cookie] = queue
            else:
                continue
            del self._under_way[cookie]
        for cookie in [c for c in self._lost if commands.status(c) is not None]:
            del self._lost[cookie]
        for _ in range(min(_TURN, _UNDER_WAY - len(self._under_way), commands.free_cells)):
            if not placing.next_place(s):
                break
            place = s["place"]
            cookie, queue = int(place["cookie"]), int(place["queue"])
            at = self._area + int(place["offset"])
            commands.place(queue, [(at, int(place["length"]))], cookie)
            self._under_way[cookie] = queue, now_ns + placing.PATIENCE

    def drop_queue(self, queue: int) -> None:
        """The application of `queue` is gone: nothing more is moved to it."""
        placing.drop_queue(self._s, queue)

    def drain(self, queue: int) -> None:
        """Before `queue` is switched on for another application: see to it that no command of the
        last one is left, or it would move that one's payload to this one.

        Waits at most 1 s for the commands, then until the card has given them up.
        """
        commands = self._card.commands
        if queue not in [*self._lost.values(), *(of for of, _ in self._under_way.values())]:
            return
        try:
            commands.wait(commands.fence(), _DRAIN_SECONDS)
        except DeviceError as error:
            _log.warning("%s; its ring is begun anew", error)
            commands.start()  # waits for the command that is being carried out
            self._under_way.clear()
            self._lost.clear()

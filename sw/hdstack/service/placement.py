"""PLACE commands as `hdstack.net.placing` asks for them: sent a few a turn, answers gathered.

Rare work, a few commands a burst, so in plain Python. Nothing here waits: what finds no room in the
command ring goes in a later turn, and a command without an answer is forgotten after 5 s, by then
given up in the tables.
"""

from ..driver import AREA_BYTES, Card
from ..errors import ConfigurationError
from ..net import placing
from ..tcp import tables

__all__ = ["Placement"]

_TURN = 8
"""Commands sent in one turn."""
_UNDER_WAY = 32
"""Commands without an answer, at most: others of the stack find room in the ring."""


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
        self._under_way: dict[int, tuple[int, int]] = {}  # cookie -> queue, when it is given up

    def __len__(self) -> int:
        """Commands without an answer."""
        return len(self._under_way)

    def turn(self, now_ns: int) -> None:
        """Take answers, forget what is lost, send what is due."""
        commands, s = self._card.commands, self._s
        if self._under_way:
            commands.poll()
        for cookie, (_, until) in list(self._under_way.items()):
            status = commands.status(cookie)
            if status is not None:
                placing.place_answered(s, cookie, bool(status), now_ns)
            elif now_ns >= until:
                commands.forget(cookie)
            else:
                continue
            del self._under_way[cookie]
        if not self._under_way and commands.free_cells < _TURN:
            commands.look()  # commands that were lost have left their cells
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
        """Before `queue` is switched on for another application: wait, at most 5 s, until no
        command of the last one is left, or it would move that one's payload to this one."""
        if any(of == queue for of, _ in self._under_way.values()):
            self._card.commands.wait(self._card.commands.fence())

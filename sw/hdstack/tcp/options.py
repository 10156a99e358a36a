"""Options of a connection: what an application may set, each value checked.

What is refused changes nothing, and the answer tells why: UNSUPPORTED for an option that is not
there, INVALID_REQUEST for a value out of its range (`events.Option`).
"""

from ..compile import part
from . import acks, congestion
from .events import CloseReason, EventKind, Option
from .rows import emit_event, number
from .tables import MILLISECOND, NEVER
from .timers import arm_keepalive, update_deadline

ANSWER = int(EventKind.OPTION)
NORMAL = int(CloseReason.NORMAL)
INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)
UNSUPPORTED = int(CloseReason.UNSUPPORTED)

NODELAY = int(Option.NODELAY)
KEEPALIVE = int(Option.KEEPALIVE)
KEEPALIVE_IDLE = int(Option.KEEPALIVE_IDLE)
KEEPALIVE_INTERVAL = int(Option.KEEPALIVE_INTERVAL)
KEEPALIVE_COUNT = int(Option.KEEPALIVE_COUNT)
USER_TIMEOUT = int(Option.USER_TIMEOUT)
QUICKACK = int(Option.QUICKACK)
CONGESTION = int(Option.CONGESTION)
HOPS = int(Option.HOPS)
TRAFFIC_CLASS = int(Option.TRAFFIC_CLASS)
FIRST = int(min(Option))
LAST = int(max(Option))
SECONDS_MAX = 32767
PROBES_MAX = 127


@part
def is_allowed(option, value):
    """Whether `value` is in the range of `option`."""
    if option in (KEEPALIVE_IDLE, KEEPALIVE_INTERVAL):
        return value >= 1 and value <= SECONDS_MAX
    if option == KEEPALIVE_COUNT:
        return value >= 1 and value <= PROBES_MAX
    if option == USER_TIMEOUT:
        return True
    if option in (HOPS, TRAFFIC_CLASS):
        return value <= 255 and (value > 0 or option == TRAFFIC_CLASS)
    return value <= 1


@part
def set_option(s, index, option, value, now):
    """Set `option` of a connection to `value`, or refuse it; tell the application."""
    c = s["connections"][index]
    reason = NORMAL
    if option < FIRST or option > LAST:
        reason = UNSUPPORTED
    elif not is_allowed(option, value):
        reason = INVALID_REQUEST
    elif option == NODELAY:
        c["nodelay"] = value
    elif option == KEEPALIVE:
        c["keep_on"] = value
        c["keep_tries"] = 0
    elif option == KEEPALIVE_IDLE:
        c["keep_idle"] = value
    elif option == KEEPALIVE_INTERVAL:
        c["keep_every"] = value
    elif option == KEEPALIVE_COUNT:
        c["keep_count"] = value
    elif option == USER_TIMEOUT:
        c["user_timeout"] = value * MILLISECOND
    elif option == QUICKACK:
        acks.set_quick(c, value)
    elif option == CONGESTION:
        congestion.choose(c, value)
    elif option == HOPS:
        c["hops"] = value
    elif option == TRAFFIC_CLASS:
        value &= ~3  # RFC 3168: the ECN bits are TCP's, which does not use them
        c["traffic_class"] = value
    if option >= KEEPALIVE and option <= KEEPALIVE_COUNT and reason == NORMAL:
        c["keep_at"] = NEVER
        update_deadline(s, index)
        if c["keep_on"] and c["announced"]:
            arm_keepalive(s, index, now)
    emit_event(s, c["queue"], ANSWER, c["socket"], number(c, index), 0, option, 0, reason, 0, value)

"""The contract between the device and everything above it, written once, as plain data.

From here come the Amaranth layouts, the numpy dtypes, the C header of the simulation harness and
the tables of the datasheet. Needs nothing but Python (numpy only where a dtype is asked for).
"""

from .layout import Access, Field, Layout, Register  # noqa: F401
from .layouts import *  # noqa: F403
from .outcomes import *  # noqa: F403
from .registers import *  # noqa: F403

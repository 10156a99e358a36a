"""TCP as functions over rows: given frames, requests and the time, it leaves segments and events.

No I/O, no clock, no allocation: `hdstack.service` moves bytes, `hdstack.net` knows the headers.
"""

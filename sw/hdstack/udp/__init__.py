"""UDP as functions over the rows of `hdstack.tcp.tables`: no I/O, no clock (see README.md)."""

"""Memory ports: AXI4 masters that the blocks of the card share."""

from .axi import AXI4, AXI4Lite, connect_master
from .index import IndexWriter
from .read import ReadPort
from .write import WritePort

__all__ = ["AXI4", "AXI4Lite", "IndexWriter", "ReadPort", "WritePort", "connect_master"]

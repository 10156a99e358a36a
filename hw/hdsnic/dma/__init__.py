"""Memory ports: AXI4 masters that the blocks of the card share."""

from .axi import AXI4, AXI4Lite
from .index import IndexWriter
from .read import ReadPort
from .write import WritePort

__all__ = ["AXI4", "AXI4Lite", "IndexWriter", "ReadPort", "WritePort"]

"""Between the MAC's AXI4-Stream and the frames of the card."""

from .axis import AXIStream, FrameFromMAC, FrameToMAC

__all__ = ["AXIStream", "FrameFromMAC", "FrameToMAC"]

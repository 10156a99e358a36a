"""Transmit path: descriptors in, frames out."""

from .transmit import Transmit

__all__ = ["Transmit"]

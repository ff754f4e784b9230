"""Datasets: what to load (Data), what a source returns (Source, Arrays), and images to sample from (Images)."""

from datastill.data.description import Data, Splits, hold_out
from datastill.data.images import Batch, Images, Lazy
from datastill.data.source import Arrays, Source

__all__ = ["Arrays", "Batch", "Data", "Images", "Lazy", "Source", "Splits", "hold_out"]

"""Datasets: what to load (Data), what a source gives (Source, Arrays), and images ready to be drawn (Images)."""

from datastill.data.description import Data, Splits, stratified
from datastill.data.images import Batch, Images, Lazy
from datastill.data.source import Arrays, Source

__all__ = ["Arrays", "Batch", "Data", "Images", "Lazy", "Source", "Splits", "stratified"]

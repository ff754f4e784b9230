"""The report: one self-contained HTML page about finished runs."""

from datastill.report.page import report

__all__ = ["report"]

"""`report.html`: the result of a run, for people who would rather look than read."""

from s4v_core.captioning.report.page import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]

"""A run's captions, with or without their images, in the formats that others read."""

from s4v_core.captioning.export.exporting import Exported, export_run
from s4v_core.captioning.export.run_rows import UnfinishedRunError

__all__ = ["Exported", "UnfinishedRunError", "export_run"]

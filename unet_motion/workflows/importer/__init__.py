"""Graphs of ComfyUI that are built on AnimateDiff-Evolved, as graphs of this pack's and core's nodes."""

from .convert import Converted, WorkflowError, convert_workflow, old_types
from .report import Report

__all__ = ["Converted", "Report", "WorkflowError", "convert_workflow", "old_types"]

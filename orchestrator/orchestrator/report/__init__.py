"""Reports: a run directory in, numbers (report.json), one page (report.html), Markdown (report.md) and a table for the terminal out."""

import os
from pathlib import Path

from orchestrator.report.build import build_report
from orchestrator.report.html import render_html
from orchestrator.report.markdown import render_markdown
from orchestrator.report.model import Report
from orchestrator.report.table import render_table

__all__ = ["Report", "build_report", "render_table", "write_report"]


def write_report(run_dir: Path) -> Report:
    """Write report.json, report.html and report.md into the run directory, each complete or not at all."""
    report = build_report(run_dir)
    texts = {"report.json": report.to_json(), "report.html": render_html(report), "report.md": render_markdown(report)}
    for name, text in texts.items():
        part = run_dir / f"{name}.part"
        part.write_bytes(text.encode("utf-8", "replace"))
        os.replace(part, run_dir / name)
    return report

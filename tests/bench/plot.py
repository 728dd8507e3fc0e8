"""`python -m tests.bench.plot bench.json bench.png TITLE`: bars of CPU time and rate; runs in the bench's own venv."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, CEILING = "#1f6f8b", "#b0b0b0", "#d9a441"
PANELS = (("cpu_s_per_1000", "CPU-seconds per 1,000 mails (less is better)"), ("mails_per_s", "mails per second"))


def draw(results: list[dict[str, Any]], file: Path, title: str) -> None:
    """One row of two panels per leg and number of mails."""
    keys = list(dict.fromkeys((r["leg"], r["mails"]) for r in results))
    figure, rows = plt.subplots(len(keys), 2, figsize=(13, 1 + 3.2 * len(keys)), squeeze=False)
    for (leg, mails), panels in zip(keys, rows, strict=True):
        group = [r for r in results if (r["leg"], r["mails"]) == (leg, mails)]
        for panel, (field, label) in zip(panels, PANELS, strict=True):
            _bars(panel, group, field)
            panel.set_xlabel(label)
        panels[0].set_title(f"{leg}, {mails:,} mails", loc="left", fontweight="bold")
        panels[1].set_yticklabels([])
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _bars(panel: Any, group: list[dict[str, Any]], field: str) -> None:
    names, values = [r["name"] for r in group], [r[field] for r in group]
    bars = panel.barh(names, values, color=[_colour(name) for name in names])
    panel.bar_label(bars, fmt=lambda value: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", padding=3, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.spines[["top", "right"]].set_visible(False)


def _colour(name: str) -> str:
    if name.startswith("Postbote"):
        return OURS
    return CEILING if "ceiling" in name else THEIRS


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3])

"""What a bench run has found: medians, and the ratios to the references beside their targets."""

import statistics

PAGE_BYTES = 4096
FIGURES = ("total_s", "stream_s", "wire_mb", "gap_ms")


class Target:
    """What a drover configuration has to reach, as a part of the reference's median. None: no
    target. gap_plus_ms is added to the reference's gap instead."""

    def __init__(self, wire=None, total=None, aim=None, gap=None, gap_plus_ms=None):
        self.wire, self.total, self.aim, self.gap = wire, total, aim, gap
        self.gap_plus_ms = gap_plus_ms


UNLIMITED = Target(total=1.1, gap_plus_ms=10)
TARGETS = {
    ("idle", "default"): Target(wire=1 / 9, total=1 / 2.5, aim=1 / 4, gap=1 / 4),
    ("idle", "multifd-zstd"): Target(wire=1 / 2.8, total=1 / 1.5, aim=1 / 2, gap=1),
    ("sparse", "default"): Target(wire=1 / 5.5, total=1 / 3.5, gap=1 / 4),
    ("sparse", "multifd-zstd"): Target(wire=1 / 1.6, total=1 / 1.7, gap=1),
    ("random", "default"): Target(wire=1.01, total=1.05, gap=1),
    ("idle-unlimited", "default"): UNLIMITED,
    ("sparse-unlimited", "default"): UNLIMITED,
    ("random-unlimited", "default"): UNLIMITED,
}


def grouped(runs):
    """{(case, config): its runs}, in the order in which they were made."""
    groups = {}
    for run in runs:
        groups.setdefault((run["case"], run["config"]), []).append(run)
    return groups


def median(runs, figure):
    values = [run[figure] for run in runs if run["status"] == "ok" and figure in run]
    return statistics.median(values) if values else None


def _cpu(runs):
    """Medians of the processor seconds: source's QEMU, destination's, send, recv, the rest."""
    parts = [run["cpu_s"] for run in runs if run["status"] == "ok"]
    if not parts:
        return ""
    return " ".join(f"{statistics.median(part[role] for part in parts):6.2f}" for role in parts[0])


def _cell(value, width, digits):
    return f"{value:{width}.{digits}f}" if value is not None else " " * (width - 1) + "-"


def print_medians(runs):
    print(f"\n{'':16} {'':13} {'':>5} {'total':>7} {'stream':>7} {'wire':>8} {'gap':>7}   "
          "processor seconds")
    print(f"{'case':16} {'configuration':13} {'runs':>5} {'s':>7} {'s':>7} {'MB':>8} {'ms':>7}   "
          "QEMU   QEMU'   send   recv   rest")
    for (case, config), group in grouped(runs).items():
        good = sum(run["status"] == "ok" for run in group)
        figures = [median(group, figure) for figure in FIGURES]
        cells = [_cell(value, *form) for value, form in
                 zip(figures, ((7, 2), (7, 2), (8, 1), (7, 1)))]
        print(f"{case:16} {config:13} {good:>2}/{len(group):<2} {' '.join(cells)} {_cpu(group)}")


def _ratio(value):
    return f"1/{1 / value:.2f}" if 0 < value < 0.995 else f"{value:.2f}"


def _against(label, value, target, shown=_ratio):
    if target is None:
        return f"{label} {shown(value)}"
    return (f"{label} {shown(value)} (at most {shown(target)}: "
            f"{'met' if value <= target else 'not met'})")


def not_referenced(ours, reference_mb):
    """The part of the reference's bytes that drover sent no references for: what its own bytes
    can be held against when the rest cannot be compressed."""
    referred = [run["report"].get("pages", {}).get("reference", 0) for run in ours
                if run["status"] == "ok" and "report" in run]
    return reference_mb - (statistics.median(referred) * PAGE_BYTES / 1e6 if referred else 0)


def _compare(case, ours, theirs, target):
    """The words of one comparison."""
    us = {figure: median(ours, figure) for figure in FIGURES}
    them = {figure: median(theirs, figure) for figure in FIGURES}
    if us["total_s"] is None or them["total_s"] is None:
        return ["cannot be compared: no run succeeded"]
    base_mb = not_referenced(ours, them["wire_mb"]) if case == "random" else them["wire_mb"]
    words = [_against("wire", us["wire_mb"] / base_mb, target.wire),
             _against("total", us["total_s"] / them["total_s"], target.total)]
    if target.aim is not None:
        words[-1] += f", aim {_ratio(target.aim)}"
    words.append(f"stream {_ratio(us['stream_s'] / them['stream_s'])}")
    if target.gap_plus_ms is not None:
        words.append(_against("gap", us["gap_ms"] - them["gap_ms"], target.gap_plus_ms,
                              lambda ms: f"{ms:+.0f} ms"))
    else:
        words.append(_against("gap", us["gap_ms"] / them["gap_ms"], target.gap))
    return words


def print_comparisons(runs):
    """Each drover configuration against each of the others, with the targets where there are."""
    groups = grouped(runs)
    for (case, config), ours in groups.items():
        if not config.startswith("drover"):
            continue
        for (other_case, other), theirs in groups.items():
            if other_case == case and not other.startswith("drover"):
                target = TARGETS.get((case, other), Target())
                print(f"\n{case}: {config} against {other}\n    " +
                      "\n    ".join(_compare(case, ours, theirs, target)))


def print_estimates(runs):
    """How many moves took as long as was estimated before them. A range without an end holds for
    nothing."""
    made = [run["estimate"] for run in runs if run["status"] == "ok" and "estimate" in run]
    if not made:
        return
    held = [one for one in made if one["inside"] and one["total_ms"][1] is not None]
    widths = [one["total_ms"][1] / max(1, one["total_ms"][0]) for one in made
              if one["total_ms"] and one["total_ms"][1] is not None]
    width = f"; the high end is {statistics.median(widths):.1f} times the low one" if widths else ""
    print(f"estimates of the total time: {len(held)} of {len(made)} inside{width}")


def print_failures(runs):
    for run in runs:
        if run["status"] != "ok":
            print(f"{run['case']} {run['config']} run {run['run']}: {run['status']}: "
                  f"{run['message']}")

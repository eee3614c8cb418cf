"""The plot of a bench run: for each case a group of bars, as parts of the reference's median."""

import shutil
import statistics
import subprocess

from droverlab.paths import LabError

from .report import grouped, median

REFERENCE = "default"
PANELS = (("wire_mb", "bytes on the wire", "{:.0f} MB"), ("total_s", "total time", "{:.1f} s"),
          ("gap_ms", "gap", "{:.0f} ms"))
COLORS = ("#7f7f7f", "#4c72b0", "#55a868", "#c9a227", "#c44e52", "#8172b3")
HEAD = """set terminal svg size 1100,{height} dynamic font 'sans-serif,12' background '#ffffff'
set output '{output}'
set multiplot layout {panels},1 title '{title}'
set style fill solid 0.9 noborder
set boxwidth -2
set grid ytics lc '#dddddd'
set key outside right top
set bars 0.4
set offsets 0.7, 0.7, graph 0.1, 0
set xtics nomirror scale 0 ({tics})
set ytics nomirror
"""


def _bars(groups, cases, config, figure, places):
    """Lines "x median lowest highest label" of one configuration."""
    lines = []
    for case in cases:
        runs = groups.get((case, config), [])
        middle = median(runs, figure[0])
        base = median(groups.get((case, REFERENCE), []), figure[0]) or 1
        if middle is None:
            continue
        values = [run[figure[0]] for run in runs if run["status"] == "ok"]
        lines.append(f"{places[case, config]} {middle / base:.4f} {min(values) / base:.4f} "
                     f'{max(values) / base:.4f} "{figure[2].format(middle)}"')
    return lines


def _panel(groups, cases, configs, figure, places):
    script, plots = [], []
    for number, config in enumerate(configs):
        bars = _bars(groups, cases, config, figure, places)
        if not bars:
            continue
        block = f"${figure[0]}{number}"
        script.append("\n".join([f"{block} << END", *bars, "END"]))
        plots.append(f"{block} using 1:2:3:4:(0.85) with boxerrorbars lc '{COLORS[number % len(COLORS)]}'"
                     f" title '{config}'")
        plots.append(f"{block} using 1:4:5 with labels offset 0,0.7 font ',10' notitle")
    unit = f"{figure[1]}, {REFERENCE} = 1" if REFERENCE in configs else figure[1]
    script += [f"set ylabel '{unit}'", "set yrange [0:*]", "plot " + ", ".join(plots)]
    return "\n".join(script)


def write(runs, output):
    """Writes the medians, with the lowest and highest runs, as an SVG."""
    if not shutil.which("gnuplot"):
        raise LabError("The plot needs gnuplot: lab/deps bench/packages.txt installs it.")
    groups = grouped([run for run in runs if run["status"] == "ok"])
    if not groups:
        raise LabError("There is nothing to plot: no move succeeded.")
    cases = list(dict.fromkeys(case for case, _ in groups))
    configs = list(dict.fromkeys(config for _, config in groups))
    places = {(case, config): left * (len(configs) + 1) + right
              for left, case in enumerate(cases) for right, config in enumerate(configs)}
    tics = ", ".join(f"'{case}' {statistics.mean(places[case, config] for config in configs)}"
                     for case in cases)
    most = max(len(group) for group in groups.values())
    script = [HEAD.format(height=330 * len(PANELS), output=output, panels=len(PANELS), tics=tics,
                          title=f"medians of {most}, lowest to highest")]
    script += [_panel(groups, cases, configs, figure, places) for figure in PANELS]
    run = subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode != 0:
        raise LabError(f"gnuplot cannot plot: {run.stderr.strip()[-500:]}")

"""Charts of rows as SVG: a point a row, with its 95 % interval, its name and its numbers.

They are drawn here, without a chart library, which would be megabytes in every file: each point is
an element with a name that a screen reader finds, and the tables hold the same numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Row = Mapping[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 58, 16, 16, 46
SCALES = {"ssim": 1, "psnr": 1}  # the others are shares, in percent
NAMES = {
    "ssim": "SSIM of R's picture",
    "psnr": "PSNR of R's picture, dB",
    "srra": "replayed pictures accepted (SRRA), %",
    "acc": "verification accuracy, %",
    "type2": "accepted as another photograph, %",
    "tar_far_1e-2": "identified: TAR at FAR 1e-2, %",
    "rank1": "identified: rank 1 of everybody, %",
}
TRADEOFF = ("ssim", "psnr", "srra")
WORST = ("tar_far_1e-2", "type2", "ssim", "rank1")


class Point(NamedTuple):
    """A row: its name, its numbers, and whether the paper printed it."""

    name: str
    row: Mapping[str, Any]
    paper: bool = False


Series = Mapping[str, Sequence[Point]]


def figures(experiment: str, rows: Sequence[Row], paper: Mapping[str, Mapping[str, float]]) -> str:
    """The charts that suit a command's rows; "" where there is none.

    Args:
      experiment: the command's name.
      rows: of its results.
      paper: the paper's numbers by a row's label.
    """
    if experiment == "worst_case":
        series: dict[str, list[Point]] = {}
        for r in rows:
            series.setdefault(r["defence"], []).append(Point(f"{r['defence']}: {r['attack']}", r))
        return _figure("Use against harm: a point for each attack", WORST, series, lines=False)
    if experiment not in ("tradeoff", "defenses"):
        return ""
    series = {}
    for r in rows:
        e = r.get("epsilon")
        numbers = (paper.get(f"{r['method']} ε = {e:.2f}") if e is not None else None) or paper.get(
            r["method"], {}
        )
        name = r["method"] if r.get("epsilon") is None else f"{r['method']}, ε = {r['epsilon']:g}"
        if r.get("acc") is not None:
            series.setdefault(r["method"], []).append(Point(name, r))
        if numbers.get("acc") is not None:
            series.setdefault("the paper", []).append(Point(f"{name} (the paper)", numbers, True))
    title = "Over ε" if experiment == "tradeoff" else "By defence"
    title += ": what is recognised, and what R sees"
    return _figure(title, TRADEOFF, series, lines=experiment == "tradeoff")


def _figure(title: str, keys: Sequence[str], series: Series, lines: bool) -> str:
    """One chart for each measure on its x axis; the first is shown."""
    every = [p for points in series.values() for p in points]
    keys = [k for k in keys if any(p.row.get(k) is not None for p in every)]
    if not keys:
        return ""
    options = "".join(f'<option value="{k}">{escape(NAMES[k])}</option>' for k in keys)
    toggles = "".join(
        f'<label><input type="checkbox" checked data-series="{i}"><span class="key c{i % 10}">'
        f"</span>{escape(name)}</label>"
        for i, name in enumerate(series)
    )
    charts = "".join(_chart(k, series, lines, hidden=bool(i)) for i, k in enumerate(keys))
    return (
        f'<figure class="chart"><figcaption><h2>{escape(title)}</h2></figcaption>'
        f"<label>Across: <select>{options}</select></label>"
        f'{charts}<p class="said" role="status">Choose a point to read its numbers. Bars: 95 % '
        f"intervals. Up: more useful; left: more private.</p>"
        f"<fieldset><legend>Shown</legend>{toggles}</fieldset></figure>"
    )


def _chart(key: str, series: Series, lines: bool, hidden: bool) -> str:
    every = [p.row for points in series.values() for p in points]
    across, up = (
        _Axis.over(key, every, LEFT, WIDTH - RIGHT),
        _Axis.over("acc", every, HEIGHT - BOTTOM, TOP),
    )
    marks = []
    for i, points in enumerate(series.values()):
        known = [p for p in points if None not in (p.row.get(key), p.row.get("acc"))]
        at = [(across.at(p.row[key]), up.at(p.row["acc"])) for p in known]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        line = lines and len(at) > 1 and not known[0].paper
        joined = f'<polyline points="{path}"/>' * bool(line)
        dots = "".join(_dot(p, key, x, y, across, up) for p, (x, y) in zip(known, at, strict=True))
        marks.append(f'<g class="c{i % 10}" data-series="{i}">{joined}{dots}</g>')
    name = f"{NAMES['acc']} against {NAMES[key]}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(name)}" '
        f'data-key="{key}"{" hidden" * hidden}><g class="axes" aria-hidden="true">'
        f"{across.drawn(False)}{up.drawn(True)}</g>{''.join(marks)}</svg>"
    )


def _dot(point: Point, key: str, x: float, y: float, across: "_Axis", up: "_Axis") -> str:
    said = "; ".join([point.name, *(_said(k, point.row) for k in (key, "acc"))])
    bars = ""
    if ends := point.row.get(f"{key}_ci"):
        bars += '<path d="M{:.1f} {y:.1f}H{:.1f}"/>'.format(*map(across.at, ends), y=y)
    if ends := point.row.get("acc_ci"):
        bars += '<path d="M{x:.1f} {:.1f}V{:.1f}"/>'.format(*map(up.at, ends), x=x)
    mark = (
        f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
        if point.paper
        else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    )
    return f'<g class="dot" tabindex="0" role="img" aria-label="{escape(said)}">{bars}{mark}</g>'


def _said(key: str, row: Mapping[str, Any]) -> str:
    scale = SCALES.get(key, 100)
    digits = 3 if key == "ssim" else 2
    text = f"{NAMES[key]}: {scale * row[key]:.{digits}f}"
    if ends := row.get(f"{key}_ci"):
        text += " ({:.{d}f} to {:.{d}f})".format(*(scale * e for e in ends), d=digits)
    return text


def _round(step: float) -> float:
    """1, 2 or 5 times a power of ten: the least of them that is no smaller."""
    power = 10 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * 0.999)


class _Axis(NamedTuple):
    """From a measure's values to places."""

    key: str
    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def over(cls, key: str, rows: Iterable[Mapping[str, Any]], begin: float, end: float) -> "_Axis":
        known = [r for r in rows if r.get(key) is not None]
        values = [v for r in known for v in (r[key], *(r.get(f"{key}_ci") or ()))]
        room = 0.06 * (max(values) - min(values)) or 0.05
        return cls(key, min(values) - room, max(values) + room, begin, end)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.begin + min(max(share, 0), 1) * (self.end - self.begin)

    def drawn(self, upright: bool) -> str:
        scale = SCALES.get(self.key, 100)
        step = _round((self.high - self.low) * scale / 5)
        digits = max(0, -math.floor(math.log10(step)))
        parts, tick = [], math.ceil(self.low * scale / step) * step
        while tick <= self.high * scale:
            p, text = self.at(tick / scale), f"{tick:.{digits}f}"
            tick += step
            if upright:
                parts.append(f'<path d="M{LEFT} {p:.1f}H{WIDTH - RIGHT}"/>')
                parts.append(f'<text class="end" x="{LEFT - 6}" y="{p + 4:.1f}">{text}</text>')
            else:
                parts.append(f'<path d="M{p:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
                parts.append(f'<text x="{p:.1f}" y="{HEIGHT - BOTTOM + 16}">{text}</text>')
        middle = (TOP + HEIGHT - BOTTOM) / 2
        where = (
            f'transform="translate(13 {middle}) rotate(-90)"'
            if upright
            else f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}"'
        )
        return "".join(parts) + f"<text {where}>{escape(NAMES[self.key])}</text>"

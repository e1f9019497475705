"""A table of results as a value, and the one place that writes, draws and shows it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table as Shown

from advface_jax import cli
from experiments import page
from experiments.measure.kept import discard
from experiments.measure.results_file import Row, markdown, surroundings, write_results

HOW_TO_READ = (
    "SSIM, PSNR and MSE compare R's picture with the face. ACC ±: half of a 95 % bootstrap "
    "interval over the pairs. SRRA: R's picture of one image accepted as another image of the same "
    "person, at the threshold of the row's own pairs; same image: as the image itself. The mean of "
    "these faces stands for what an attacker has without any feature (theirs, of other faces, is a "
    "little further off): a picture with a lower SSIM is wrecked, which is not yet privacy. The "
    "attacker here does not know of the protection."
)
NOISE = (
    "Random: two readings of the paper's one row: kept within ε in total (ball), or each step "
    "within ε (walk). Laplace noise has scale ε; no sensitivity is known, so it is a noise "
    "baseline and no guarantee of differential privacy."
)
LAPLACE = "Laplace noise (no DP guarantee)"  # its label in every table


class Spent(NamedTuple):
    """Seconds that a result took: in earlier sittings, and in this one."""

    earlier: float
    now: float

    @property
    def total(self) -> float:
        return self.earlier + self.now


class Column(NamedTuple):
    """How one number of a row is printed."""

    title: str
    key: str
    scale: int = 1
    digits: int = 2
    interval: bool = False  # followed by ± half of the row's 95 % interval

    def text(self, numbers: Mapping[str, Any]) -> str:
        value = numbers.get(self.key)
        if value is None:
            return "–"
        shown = f"{self.scale * value:.{self.digits}f}"
        if self.interval and (ends := numbers.get(f"{self.key}_ci")):
            shown += f" ± {self.scale * (ends[1] - ends[0]) / 2:.{self.digits}f}"
        return shown


COLUMNS = (
    Column("SSIM", "ssim", 1, 3),
    Column("PSNR", "psnr"),
    Column("MSE", "mse", 1, 4),
    Column("ACC %", "acc", 100, interval=True),
    Column("SRRA %", "srra", 100),
    Column("same image %", "srra_same_image", 100),
)


def printed(
    labels: Sequence[str],
    rows: Sequence[Row],
    theirs: Sequence[Mapping[str, float]],
    columns: Sequence[Column] = COLUMNS,
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows as text, each followed by the paper's numbers if it has some."""
    lines = []
    for label, ours, numbers in zip(labels, rows, theirs, strict=True):
        lines.append([label, *(column.text(ours) for column in columns)])
        if numbers:
            lines.append(["  in the paper", *(column.text(numbers) for column in columns)])
    return ["", *(column.title for column in columns)], lines


def setting(settings: Mapping[str, Any], first: Row) -> str:
    """The paragraph on what was measured and how."""
    alpha = "ε/10" if settings["alpha"] is None else f"{settings['alpha']:g}"
    method = f"{settings['method']}, " if "method" in settings else ""
    start = " around z" if settings.get("start") == "z" else ""
    networks = [
        f"{letter} {settings.get(role) or '; '.join(d['name'] for d in settings[f'{role}s'])}"
        for letter, role in (("S", "shadow"), ("R", "attacker"))
        if role in settings or f"{role}s" in settings
    ]
    return (
        f"{', '.join(networks)}, {settings['steps']} steps, {method}α = {alpha}, bound "
        f"{settings['bound']}{start}, batches of {settings['batch']} ({settings['statistics']} "
        f"statistics), {settings['precision']}, {sample(settings, first)}"
    )


def sample(settings: Mapping[str, Any], first: Row) -> str:
    """The end of that paragraph: seed, faces, pairs and weights."""
    return (
        f"seed {settings['seed']}; {first['n']:,} faces, {first['pairs']:,} pairs in "
        f"{settings['folds']} folds ({settings['faces']}); weights {settings['weights']}."
    )


@dataclasses.dataclass(frozen=True)
class Table:
    """What a command measured, and how it is to be written.

    Attributes:
      name: Of the command, and of its files.
      title: Of the Markdown.
      rows: For the JSON.
      header, lines: The table as text; a first cell that begins with a space is the paper's row.
      settings: What was measured, for the JSON's ``config``.
      notes: For the JSON's ``notes``.
      spent: How long it took.
      before, remarks: Paragraphs of the Markdown before and after the table.
      pages: File names of further Markdown, each with its text.
      pictures: File names, each with the function that draws it there.
      kept: Folders of batches, which ``publish`` removes.
      caption: Over the table in the terminal.
      narrow: The columns that the terminal has room for; all by default.
      faces: R's pictures of drawn faces for the page, never of real ones.
    """

    name: str
    title: str
    rows: Sequence[Row]
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    settings: Mapping[str, Any]
    notes: Mapping[str, Any]
    spent: Spent
    before: Sequence[str] = ()
    remarks: Sequence[str] = ()
    pages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Callable[[Path], None]] = dataclasses.field(default_factory=dict)
    kept: Sequence[Path] = ()
    caption: str = "R's pictures of protected features; recognition; replay"
    narrow: Sequence[int] | None = None
    faces: page.Strip | None = None

    def markdown(self, command: str) -> str:
        """The whole text, with the command and where it ran."""
        where = surroundings()
        parts = [
            f"# {self.title}",
            *self.before,
            markdown(self.header, self.lines),
            *self.remarks,
            *_left_out(self.settings),
            f"`{command}`\n{where['hardware']}, jax {where['versions']['jax']}, "
            f"{self.spent.total / 60:.1f} min, {where['date']}.",
        ]
        return "\n\n".join(parts)

    def shown(self, out: Path) -> list[str]:
        """What its page has beside the text: figures and faces."""
        beside, faces = self.notes.get("paper") or {}, self.notes.get("faces")
        return [page.figures(self.name, self.rows, beside), page.strip(faces, out) if faces else ""]


def _left_out(settings: Mapping[str, Any]) -> list[str]:
    n = settings.get("pairs_left_out")
    return [f"{n:,} pairs of the list are left out: a face of theirs is missing."] if n else []


def publish(table: Table, out: Path) -> None:
    """Writes pictures, Markdown and at last JSON into ``out``, with --html a page, too; prints the
    table, or with --json the JSON; removes kept batches."""
    out.mkdir(parents=True, exist_ok=True)
    for file, write in table.pictures.items():
        write(out / file)
    for file, text in table.pages.items():
        (out / file).write_text(text, encoding="utf-8")
    command = cli.command(f"experiments.{table.name}")
    if cli.Shared.html and table.faces:
        about = table.faces.save(out / f"{table.name}-faces.jpg")
        table = dataclasses.replace(table, notes={**table.notes, "faces": about})
    told = table.markdown(command)
    write_results(
        out,
        table.name,
        table.rows,
        command=command,
        config=table.settings,
        seconds=table.spent.total,
        notes=table.notes,
        text=told,
    )
    about = {"seconds": table.spent.total, "config": table.settings}
    html = write_page(out, table.name, table.title, told, command, about, table.shown(out))
    shown = Shown(title=table.caption)
    columns = table.narrow or range(len(table.header))
    for i in columns:
        shown.add_column(table.header[i], justify="right" if i else "left")
    for line in table.lines:
        style = "dim" if line[0].startswith(" ") else None
        shown.add_row(*(line[i] for i in columns), style=style)
    answer(out, table.name, shown)
    files = (f"{table.name}.md", f"{table.name}.json", *html, *table.pages, *table.pictures)
    cli.console.print("written: " + ", ".join(str(out / f) for f in files), soft_wrap=True)
    discard(*table.kept)


def answer(out: Path, name: str, shown: Any) -> None:
    """Print what is ``shown``, or with --json the results file."""
    if cli.Shared.json:
        shown = (out / f"{name}.json").read_text(encoding="utf-8").removesuffix("\n")
    wraps = not isinstance(shown, Shown)  # the terminal breaks lines of text
    cli.answer.print(shown, markup=False, highlight=False, soft_wrap=wraps)


def write_page(
    out: Path,
    name: str,
    title: str,
    text: str,
    command: str,
    about: Mapping[str, Any],
    parts: Sequence[str] = (),
) -> list[str]:
    """With --html ``NAME.html``: the text, more parts, and how the run came to be. Its name."""
    if not cli.Shared.html:
        return []
    ran = page.provenance(command, {"command": command, **surroundings(), **about})
    body = [page.prose(text), *parts, "<h2>Provenance</h2>", ran]
    (out / f"{name}.html").write_text(page.document(title, body), encoding="utf-8")
    return [f"{name}.html"]

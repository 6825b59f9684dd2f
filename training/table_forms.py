"""A table of texts and figures, and its forms: for the terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from training.paper import Figure

MISSING = "—"


@dataclass(frozen=True)
class Cell:
    """A figure, and with how many decimals it is given."""

    figure: Figure
    decimals: int


Row = list[str | Cell | None]
"""Texts and figures; None: unknown."""


@dataclass(frozen=True)
class Table:
    """Columns of texts on the left, and of figures."""

    title: str
    texts: list[str]
    figures: list[str]
    rows: list[Row]

    @property
    def header(self) -> list[str]:
        return [*self.texts, *self.figures]


def plain(table: Table) -> str:
    """Aligned columns, for the terminal."""
    texts = len(table.texts)
    rows = [table.header, *([_text(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines, ""])


def markdown(table: Table) -> str:
    """A heading and a table in GitHub's Markdown."""
    lines = [
        f"### {table.title}",
        "",
        "| " + " | ".join(table.header) + " |",
        "|" + "---|" * len(table.texts) + "---:|" * len(table.figures),
    ]
    lines += ["| " + " | ".join(map(_text, row)) + " |" for row in table.rows]
    return "\n".join([*lines, ""])


def latex(table: Table) -> str:
    """A table environment; needs the package booktabs."""
    columns = "l" * len(table.texts) + "r" * len(table.figures)
    caption = _escaped(table.title.partition(": ")[2])
    lines = [
        r"\begin{table}",
        rf"\caption{{{caption[0].upper()}{caption[1:]}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_escaped, table.header)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [
            "$" + _text(cell, r" \pm ") + "$" if isinstance(cell, Cell) else _escaped(_text(cell))
            for cell in row
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def html(table: Table) -> str:
    """A table in a frame that scrolls sideways, for training/report.py."""
    texts = len(table.texts)

    def row(cells: Row, tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        left = f'<{tag}{scope} class="text">'
        parts = (
            f"{left if i < texts else f'<{tag}{scope}>'}{escape(_text(cell))}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f'<div class="scroll" tabindex="0" role="group"><table><caption>{escape(table.title)}'
        f"</caption><thead>{row([*table.header], 'th')}</thead><tbody>{body}</tbody></table></div>"
    )


def _text(cell: str | Cell | None, plus_minus: str = " ± ") -> str:
    if not isinstance(cell, Cell):
        return MISSING if cell is None else cell
    mean, std = cell.figure.mean, cell.figure.std
    text = f"{mean:.{cell.decimals}f}"
    return text if std is None else f"{text}{plus_minus}{std:.{cell.decimals}f}"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace(MISSING, "---")

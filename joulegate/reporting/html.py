"""A document as one HTML file that needs nothing else: light or dark as the reader's system is; printable."""

from __future__ import annotations

from html import escape

from joulegate.reporting.table import Document, Table, for_people, is_number, shown

STYLE = """
:root { color-scheme: light dark;
  --text: #1b1f24; --soft: #59636e; --line: #d4d9df; --back: #fff; --band: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --soft: #9aa5b1; --line: #3a424c; --back: #14171b; --band: #1c2127 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  margin: 2.5rem auto; padding: 0 1.5rem; max-width: 86rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0 }
dt { color: var(--soft) }
dd { margin: 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: 600; vertical-align: bottom }
th small { display: block; font-weight: 400 }
td { min-width: 6.5rem; overflow-wrap: anywhere }
.n { text-align: right }
td.n { min-width: 0; white-space: nowrap }
tbody tr:nth-child(even) { background: var(--band) }
tfoot td { font-weight: 700; border-bottom: 0; border-top: 2px solid var(--line) }
footer { color: var(--soft); margin-top: 2rem }
footer p { margin: .2rem 0 }
@media print { body { margin: 0; max-width: none } .wide { overflow: visible } }
"""


def as_html(document: Document) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in document.facts)
    tables = "\n".join(_table(for_people(table)) for table in document.tables)
    notes = "".join(f"<p>{escape(note)}</p>" for note in document.notes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(document.title)}</title>\n<style>{STYLE}</style></head>\n<body><main>"
        f"<h1>{escape(document.title)}</h1>\n<dl>{facts}</dl>\n{tables}\n</main>"
        f"{f'<footer>{notes}</footer>' if notes else ''}</body></html>\n"
    )


def _table(table: Table) -> str:
    classes = [' class="n"' if is_number(table, place) else "" for place in range(len(table.columns))]
    units = [f"<small>{escape(column.unit)}</small>" if column.unit else "" for column in table.columns]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(column.name)}{unit}</th>'
        for column, kind, unit in zip(table.columns, classes, units, strict=True)
    )

    def row(cells: list[str]) -> str:
        return (
            "<tr>"
            + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, classes, strict=True))
            + "</tr>"
        )

    body = "\n".join(
        row([escape(shown(cell, column)) for cell, column in zip(cells, table.columns, strict=True)])
        for cells in table.rows
    )
    foot = ""
    if table.total is not None:
        total = zip(table.total, table.columns, strict=True)
        foot = f"<tfoot>{row(['' if c is None else escape(shown(c, column)) for c, column in total])}</tfoot>"
    return (
        f"<h2>{escape(table.title)}</h2>\n<div class=wide><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody>{foot}</table></div>"
    )

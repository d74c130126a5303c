"""Looks and behaviour of a report's page; they stand inside it, so that it is one file."""

CSS = """
:root { --ink: #1f2933; --soft: #5f6b77; --line: #dfe4e8; --paper: #ffffff; --ground: #f5f7f9;
  --first: #2f6db3; --second: #c46f14; --good: #1d7a4c; --bad: #b3372f; color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 16px; }
h2 { font-size: 19px; margin: 32px 0 10px; }
h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 6px 0; }
.card, details { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 18px; margin: 12px 0; }
details > summary { cursor: pointer; font-weight: 600; }
details[open] > summary { margin-bottom: 10px; }
details details { padding: 10px 14px; }
.soft { color: var(--soft); font-size: 13px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 16px; }
.pair.narrow { grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.first { color: var(--first); } .second { color: var(--second); }
.verdict { border-left: 5px solid var(--soft); }
.verdict.better { border-left-color: var(--good); } .verdict.worse { border-left-color: var(--bad); }
.verdict h3 { font-size: 17px; }
.scroll { overflow-x: auto; }
.tall .scroll { max-height: 420px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
th, td { padding: 4px 8px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
th.text, td.text { text-align: left; }
td.words { white-space: normal; min-width: 320px; }
tbody tr:hover { background: #f2f6fa; }
.bar { display: inline-block; height: 9px; min-width: 2px; border-radius: 2px; background: #9db7d3; }
td.barred { width: 40%; text-align: left; }
del, ins { padding: 0 2px; border-radius: 3px; }
del { color: var(--bad); background: #fbe9e7; text-decoration: line-through; }
ins { color: var(--good); background: #e5f4ec; text-decoration: none; }
del + ins { margin-left: 2px; }
figure { margin: 8px 0; }
figure.wide { grid-column: 1 / -1; }
 figcaption { font-weight: 600; margin-bottom: 4px; }
svg { max-width: 100%; height: auto; } svg text { font-family: inherit !important; }
@media print { body { background: white; } .tall .scroll { max-height: none; } }
"""

# A click on a column's head sorts by it; cells hold their number in data-v where their text is not one.
SCRIPT = """
document.querySelectorAll("th").forEach(th => th.addEventListener("click", () => {
  const body = th.closest("table").tBodies[0], column = th.cellIndex;
  const up = th.getAttribute("aria-sort") === "descending";
  const value = row => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
  const order = (a, b) => { const x = value(a), y = value(b), d = x - y;
    return isNaN(d) ? x.localeCompare(y) : d; };
  th.closest("tr").querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
}));
"""

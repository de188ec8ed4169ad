"""The style sheet of every page of ours."""

from __future__ import annotations

from vivace.charts.palette import DARK, LIGHT, variables

STYLE = f"""
:root {{ color-scheme: light dark; {variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0 auto; padding: 40px 24px 64px; max-width: 808px; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }}
header {{ border-bottom: 2px solid var(--ink); padding-bottom: 14px; }}
h1 {{ font-size: 27px; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; margin: 0;
  overflow-wrap: anywhere; }}
h2 {{ font-size: 19px; line-height: 1.3; letter-spacing: -0.01em; font-weight: 620; margin: 48px 0 4px; }}
p {{ margin: 8px 0; max-width: 68ch; overflow-wrap: anywhere; }}
.subtitle, .lead, .note {{ color: var(--faint); }}
.subtitle {{ margin-bottom: 0; }}
.note {{ font-size: 13px; font-weight: 400; }}
figure {{ margin: 28px 0 0; }}
figcaption {{ margin-bottom: 12px; line-height: 1.4; }}
figcaption .title {{ font-weight: 600; margin-right: 6px; }}
svg {{ display: block; max-width: 100%; height: auto; overflow: visible; font-family: inherit;
  font-variant-numeric: tabular-nums; }}
svg.narrow {{ display: none; }}
.strip:hover {{ fill: var(--ink); fill-opacity: 0.06; }}
details {{ margin-top: 10px; }}
summary {{ cursor: pointer; color: var(--faint); font-size: 13px; width: max-content; }}
:focus-visible {{ outline: 2px solid var(--series-1); outline-offset: 2px; border-radius: 3px; }}
.table {{ overflow-x: auto; margin: 16px 0 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: 8px; }}
th, td {{ text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--grid); }}
th:last-child, td:last-child {{ padding-right: 0; }}
thead th {{ color: var(--faint); font-weight: 500; border-bottom-color: var(--rule); white-space: nowrap; }}
tbody th {{ font-weight: 500; }}
td .note {{ display: block; font-size: 12px; }}
.number {{ text-align: right; white-space: nowrap; }}
.tiles {{ display: grid; grid-template-columns: repeat(var(--columns), 1fr); margin: 24px 0 0;
  border: solid var(--grid); border-width: 1px 0 0 1px; }}
.tiles div {{ border: solid var(--grid); border-width: 0 1px 1px 0; padding: 14px 16px 12px; }}
.tiles dt {{ font-size: 13px; color: var(--faint); }}
.tiles dd {{ margin: 0; }}
.tiles .value {{ font-size: 25px; line-height: 1.3; font-weight: 620; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }}
.tiles .unit {{ font-size: 14px; font-weight: 450; letter-spacing: 0; color: var(--faint); }}
.facts {{ margin: 12px 0 0; font-size: 14px; }}
.facts div {{ display: grid; grid-template-columns: 190px 1fr; gap: 14px; padding: 5px 0;
  border-bottom: 1px solid var(--grid); }}
.facts dt {{ color: var(--faint); }}
.facts dd {{ margin: 0; min-width: 0; overflow-wrap: anywhere; }}
pre, code {{ font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }}
pre {{ background: var(--wash); border-radius: 8px; padding: 12px 14px; margin: 12px 0 0; white-space: pre-wrap; }}
pre span {{ display: inline-block; max-width: 100%; overflow-wrap: anywhere; }}
.notice {{ margin: 24px 0 0; padding: 8px 16px; border-left: 3px solid var(--series-2); background: var(--wash);
  border-radius: 0 8px 8px 0; }}
@media screen and (max-width: 640px) {{
  body {{ padding: 24px 16px 48px; }}
  h1 {{ font-size: 23px; }}
  svg.wide {{ display: none; }}
  svg.narrow {{ display: block; }}
  .facts div {{ grid-template-columns: 1fr; gap: 0; }}
  .tiles {{ grid-template-columns: repeat(2, 1fr); }}
}}
@media print {{
  @page {{ margin: 16mm 15mm; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  body {{ padding: 0; max-width: none; font-size: 10.5pt; }}
  h2 {{ margin-top: 28px; break-after: avoid; }}
  figure, tr, .tiles, .notice, .facts div, pre {{ break-inside: avoid; }}
  summary, details {{ display: none; }}
  .table {{ overflow: visible; }}
}}
"""

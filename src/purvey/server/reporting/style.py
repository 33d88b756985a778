"""How the page looks, light and dark, and what a browser lets it do: nothing."""

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #5b6470;
  --rule: #d5dae1; --one: #1f6fc4; --two: #b3560a; --on: #ffffff; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e9ed; --soft: #a2abb6; --rule: #363d46; --one: #6cb2f7;
    --two: #f0a35e; --on: #10151b; --panel: #1d2127; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
.lead { font-size: 1.15rem; padding: .9rem 1.1rem; background: var(--panel);
  border-left: 4px solid var(--one); }
.soft, figcaption, caption { color: var(--soft); }
caption, figcaption { text-align: left; font-size: .9rem; padding-bottom: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: middle; overflow-wrap: break-word; }
td { font-variant-numeric: tabular-nums; }
code, pre { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { padding: 1rem; background: var(--panel); overflow-x: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
svg.bar { width: 10rem; }
svg.matrix { max-width: 38rem; }
figure > svg { max-width: 38rem; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.on { fill: var(--on); }
.grid { stroke: var(--rule); }
.frame { fill: none; stroke: var(--rule); }
.kept { stroke: var(--soft); stroke-dasharray: 4 4; }
.interval { stroke: var(--one); stroke-width: 3; stroke-opacity: .45; }
.cell, circle.line1 { fill: var(--one); }
circle.line2 { fill: var(--two); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.line1 { stroke: var(--one); }
polyline.line2 { stroke: var(--two); }
.legend { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .9rem; }
.legend li::before { content: ""; display: inline-block; width: 1.2rem; height: .25rem;
  margin-right: .5rem; vertical-align: middle; background: var(--one); }
.legend li.key2::before { background: var(--two); }
summary { cursor: pointer; }
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
INSIDE: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'"
)
"""The policy that the page says of itself, so that a saved copy keeps it."""
POLICY: Final = f"{INSIDE}; frame-ancestors 'none'; sandbox"
"""The policy of the answer: no script, no frame, nothing loaded; only the style above."""

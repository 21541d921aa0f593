"""The report page's style sheet and the one script that keeps the 3D views turning together."""

from quantvggt.report.plots import FONT, INK, MUTED, RULE

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #f6f8fa; color: {INK}; font: 15px/1.55 {FONT}; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 48px 24px 72px; }}
header {{ padding: 0 4px 12px; }}
header p {{ margin: 0; max-width: 78ch; color: {MUTED}; font-size: 16px; }}
header .brand {{ font: 600 13px {FONT}; letter-spacing: .08em; color: #0e7c86; }}
h1 {{ margin: 4px 0 10px; font-size: 34px; line-height: 1.15; letter-spacing: -.02em; }}
h2 {{ margin: 0 0 4px; font-size: 18px; letter-spacing: -.01em; }}
section {{ margin-top: 20px; padding: 22px 24px; background: white;
  border: 1px solid {RULE}; border-radius: 14px; }}
.note {{ margin: 0 0 14px; color: {MUTED}; font-size: 14px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px;
  margin-top: 12px; }}
.card {{ padding: 14px 16px; background: #f1f7f8; border-radius: 10px; }}
.card p {{ margin: 0; color: {MUTED}; font-size: 13px; }}
.card strong {{ font-size: 27px; line-height: 1.35; letter-spacing: -.02em; }}
.scroll {{ overflow-x: auto; }}
.plots {{ min-width: 720px; }}
table {{ width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
th {{ padding: 6px 10px; text-align: right; vertical-align: bottom; color: {MUTED}; font-weight: 500;
  font-size: 12.5px; line-height: 1.35; border-bottom: 1px solid {RULE}; }}
td {{ padding: 8px 10px; text-align: right; vertical-align: top; border-bottom: 1px solid {RULE};
  white-space: nowrap; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
tbody tr:last-child td {{ border-bottom: 0; }}
tr.base td {{ background: #f8fafc; }}
td small {{ display: block; color: {MUTED}; font-size: 12px; }}
td i {{ display: inline-block; width: 9px; height: 9px; margin-right: 7px; border-radius: 50%; }}
.better {{ color: #94a3b8; font-weight: 400; font-size: 11.5px; white-space: nowrap; }}
.views {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 16px; }}
.view {{ margin: 0; min-width: 0; height: 500px; border: 1px solid {RULE}; border-radius: 10px;
  overflow: hidden; display: flex; flex-direction: column; }}
.view > div {{ flex: 1; min-width: 0; min-height: 0; }}
figcaption {{ padding: 8px 14px; font-size: 14px; font-weight: 600; border-bottom: 1px solid {RULE}; }}
.strip p {{ margin: 16px 0 6px; color: {MUTED}; font-size: 13px; }}
.strip div {{ display: flex; gap: 6px; }}
.strip img {{ flex: 1 1 0; min-width: 0; width: 0; border-radius: 6px; }}
dl {{ display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 8px 24px;
  margin: 12px 0 0; }}
dt {{ font-weight: 600; font-size: 14px; }}
dd {{ margin: 0; max-width: 90ch; font-size: 14px; color: #334155; overflow-wrap: anywhere; }}
@media (max-width: 640px) {{
  main {{ padding: 28px 12px 48px; }}
  section {{ padding: 18px 14px; }}
  h1 {{ font-size: 27px; }}
  dl {{ grid-template-columns: 1fr; gap: 2px; }}
  dd {{ margin-bottom: 10px; }}
}}
"""

SYNC_VIEWS = """
const views = [...document.querySelectorAll('.view .js-plotly-plot')];
let following = false;
for (const view of views) {
  const follow = event => {
    const camera = event['scene.camera'];
    if (!camera || following) return;
    following = true;
    const others = views.filter(other => other !== view);
    Promise.all(others.map(other => Plotly.relayout(other, {'scene.camera': camera})))
      .finally(() => { following = false; });
  };
  view.on('plotly_relayouting', follow);
  view.on('plotly_relayout', follow);
}
// The first plot was drawn before its neighbours took their share of the width.
window.dispatchEvent(new Event('resize'));
"""

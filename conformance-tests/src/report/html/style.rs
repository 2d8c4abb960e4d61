//! The style sheet of the page: light and dark, wide and narrow.

/// It stands in the page itself.
pub(super) const STYLESHEET: &str = "\
:root{--bg:#fbfbfa;--fg:#1d2126;--dim:#59616b;--line:#d9dde2;--card:#fff;
--good:#17663a;--good-bg:#e3f4e8;--bad:#a3161c;--bad-bg:#fde6e6;--off:#f0f1f3;--link:#1552a8;
--fault:#b45309;--fault-bg:#f59e0b33;
--k0:#2563b8;--k1:#a2430a;--k2:#1b7358;--k3:#83349b;--k4:#6b5b00;--k5:#9b1f4d}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e8eb;--dim:#a3acb7;--line:#343b44;--card:#1b2026;
--good:#7fd9a0;--good-bg:#163322;--bad:#ff9d9d;--bad-bg:#461c20;--off:#23282f;--link:#8ab8ff;
--fault:#fbbf24;--fault-bg:#f59e0b2e;
--k0:#7fb0f5;--k1:#f2a270;--k2:#6fcfae;--k3:#d79bec;--k4:#d8c55a;--k5:#f390b3}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem clamp(.8rem,3vw,2.5rem) 3rem;max-width:78rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.3rem .6rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.3rem;margin:2.5rem 0 .75rem}h3{font-size:1.05rem;margin:1.5rem 0 .4rem}h4{font-size:1rem;margin:1rem 0 .3rem}
code,pre{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:.88em}
.verdict{display:inline-block;margin:.2rem 0 .6rem;padding:.3rem .8rem;border-radius:.4rem;font-weight:600}
.verdict.passed{background:var(--good-bg)}.verdict.failed{background:var(--bad-bg)}
.passed{color:var(--good)}.failed,.failed a{color:var(--bad)}.on{color:var(--dim);font-weight:400}
.counts{list-style:none;margin:0;padding:0;display:grid;gap:.1rem 2rem;grid-template-columns:repeat(auto-fill,minmax(25rem,1fr))}
.failure{border:1px solid var(--line);border-left:4px solid var(--bad);border-radius:.4rem;background:var(--card);
padding:.1rem 1rem .8rem;margin:0 0 1rem}
.failure h3{margin:.7rem 0 .2rem;overflow-wrap:anywhere}.failure p{margin:0 0 .5rem;color:var(--dim)}
pre{margin:0;padding:.6rem .8rem;background:var(--off);border-radius:.3rem;white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.4rem;background:var(--card);max-width:100%}
table{border-collapse:collapse;width:100%}
.matrix th,.matrix td{padding:.25rem .55rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
.matrix tbody:last-child tr:last-child>*{border-bottom:0}
.matrix thead th{background:var(--off);white-space:normal;overflow-wrap:break-word;min-width:5rem;vertical-align:bottom}
.matrix tbody th{font-weight:500;position:sticky;left:0;background:var(--card);z-index:1}
.matrix .chapter th{background:var(--off);color:var(--dim);font-size:.85em;position:static}
.matrix td.passed{background:var(--good-bg)}.matrix td.failed{background:var(--bad-bg);font-weight:600}
.matrix td.ignored,.matrix td.absent{color:var(--dim)}
.n{font-size:.85em;font-variant-numeric:tabular-nums}
#cases tbody th{white-space:normal;min-width:20rem}
.about{display:block;color:var(--dim);font-size:.85em;font-weight:400}
.unseen{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
dl{display:grid;gap:.4rem 2rem;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));margin:0}
dt{color:var(--dim);font-size:.85em}dd{margin:0;overflow-wrap:anywhere}
details{margin:1rem 0 0}summary{cursor:pointer;font-weight:600}
details ul,.faults{margin:.4rem 0 0;padding-left:1.2rem}li{overflow-wrap:anywhere}
.times th{font-weight:400;text-align:left;overflow-wrap:anywhere;padding:.1rem .7rem .1rem 0}
.times td{padding:.1rem .7rem .1rem 0;white-space:nowrap;font-variant-numeric:tabular-nums}
.times .bar{width:40%}.times .bar span{display:block;height:.7rem;background:var(--k0);border-radius:.15rem;min-width:2px}
.legend{color:var(--dim);margin:0 0 .6rem}
.key{display:inline-block;max-width:100%;color:var(--bg);border-radius:.25rem;padding:0 .5rem;margin-right:.2rem;font-size:.9em}
.k0{--k:var(--k0)}.k1{--k:var(--k1)}.k2{--k:var(--k2)}.k3{--k:var(--k3)}.k4{--k:var(--k4)}.k5{--k:var(--k5)}
.key{background:var(--k)}.key.fault{background:var(--fault-bg);color:var(--fault)}
.timeline{display:block;min-width:56rem;width:100%;height:auto;padding:.3rem .5rem}
.scroll:has(.timeline){margin:0 0 .6rem}
.timeline text{font:11px system-ui,sans-serif;fill:var(--dim);font-variant-numeric:tabular-nums}
.timeline .name{font-size:13px;fill:var(--fg)}
.timeline .base{stroke:var(--line)}
.timeline .wait{stroke:var(--k);stroke-width:1.5;opacity:.65}
.timeline .grant rect{fill:var(--k)}.timeline .grant text{fill:var(--bg);font-weight:600}
.timeline .lost{stroke:var(--bad);stroke-width:2.5}
.timeline .band rect{fill:var(--fault-bg)}.timeline .band text{fill:var(--fault)}
footer{margin-top:3rem;color:var(--dim);font-size:.9em}
@media (max-width:40rem){body{font-size:15px}.counts{grid-template-columns:1fr}
#cases tbody th{min-width:13rem;position:static}#cases .about{display:none}}
@media print{.scroll{overflow:visible;border:0}}
";

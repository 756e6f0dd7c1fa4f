"""Styles and scripts of the report's page, as plain text; nothing is loaded from elsewhere."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --line: #d9dde3; --ink: #1d2430; --soft: #5b6573;
  --plot: #ffffff; --empty: #ffffff; --reference: #333333;
  --reweighted: #0072b2; --good: #1a7f4b; --care: #9a6700; --bad: #c2302e; --link: #0b62b8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --card: #1d2229; --line: #353c47; --ink: #e6e9ee;
  --soft: #a2acb9; --plot: #1d2229; --empty: #4a525f; --reference: #f2f2f2; --reweighted: #55b4ee;
  --good: #56c98a; --care: #e0ab45; --bad: #ff7f79; --link: #7fb8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p { margin: .3rem 0; max-width: 60rem; } .soft { color: var(--soft); } a { color: var(--link); }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; min-width: 0; }
.card b { display: block; } .good { border-left: 5px solid var(--good); } .care { border-left: 5px solid var(--care); }
.bad { border-left: 5px solid var(--bad); } .mark { font-weight: 700; } .good > .mark, td.good { color: var(--good); }
.care > .mark, td.care { color: var(--care); } .bad > .mark, td.bad { color: var(--bad); }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; fill: var(--ink); }
#picture figure { max-width: 32rem; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th, td.number { white-space: nowrap; } .number { text-align: right; } td { overflow-wrap: break-word; }
td.good, td.care, td.bad { border-left: 0; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  font-size: .8rem; line-height: 1.35; }
summary { cursor: pointer; padding: .3rem 0; }
#viewer { display: grid; gap: .8rem; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); }
#canvas { height: 26rem; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: #fff; }
#controls label { display: block; margin: .4rem 0; } #controls input[type=range] { width: 100%; }
#map { width: 100%; max-width: 20rem; } #map text { fill: var(--soft); font-size: 9px; }
#map circle { fill: var(--reweighted); fill-opacity: .6; stroke: var(--ink); stroke-width: .4; cursor: pointer; }
#map circle.chosen { fill: #d55e00; fill-opacity: 1; } #map rect { fill: var(--plot); stroke: var(--line); }
button { font: inherit; padding: .2rem .7rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--paper); color: var(--ink); cursor: pointer; }
@media (max-width: 45rem) { #viewer { grid-template-columns: minmax(0, 1fr); } #canvas { height: 20rem; }
  body { padding: .7rem; } td:not(.number) { min-width: 7rem; } td.good, td.care, td.bad { min-width: 12rem; } }
"""

# Of a page that will be written again: how old it is; it reloads, unless someone is just looking around in it.
RELOAD = """<script>
(function () {
  const early = document.getElementById("early"), wait = 30;
  let last = Date.now();
  for (const kind of ["pointermove", "pointerdown", "wheel", "keydown", "touchmove"])
    window.addEventListener(kind, () => { last = Date.now(); }, { passive: true });
  function tell() {
    const age = Math.max(0, Math.round(Date.now() / 1000 - early.dataset.written));
    const words = age < 120 ? age + " s" : Math.round(age / 60) + " min";
    early.lastElementChild.textContent = "Written " + words + " ago.";
    if (Date.now() - last > 1000 * wait) location.reload();
  }
  tell();
  setInterval(tell, 1000);
})();
</script>
"""

# NGL is opened when the viewer comes into view of the script; where WebGL is missing the picture stays.
VIEWER_JS = """
(function () {
  const [box, picture, chosen, slider, map] =
    ["viewer", "picture", "chosen", "slider", "map"].map((id) => document.getElementById(id));
  const data = JSON.parse(document.getElementById("structures-data").textContent);
  let stage, solid, all, circles = [];
  function fail(reason) {
    box.hidden = true; picture.hidden = false;
    document.getElementById("why").textContent = "The 3-D viewer could not start here: " + reason;
    document.documentElement.dataset.viewer = "picture";
  }
  function describe(k) {
    const degrees = (angle) => " " + Math.round(angle * 180 / Math.PI) + "°";
    const angles = data.axes.map((name, i) => name + degrees(data.angles[k][i])).join(", ");
    return "Structure " + (k + 1) + " of " + data.frame.length + ": frame " + data.frame[k] + " of the ensemble, "
      + (100 * data.share[k]).toFixed(1) + " % of the draws" + (angles ? "; " + angles : "");
  }
  function show(k) {
    slider.value = k; chosen.textContent = describe(k);
    circles.forEach((circle, i) => circle.classList.toggle("chosen", i === k));
    if (circles[k]) map.appendChild(circles[k]);
    if (solid) solid.setFrame(k);
  }
  function drawMap() {
    if (data.axes.length !== 2) { map.remove(); return; }
    const make = (tag, attributes, text) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const key in attributes) node.setAttribute(key, attributes[key]);
      if (text) node.textContent = text;
      return map.appendChild(node);
    };
    const at = (angle) => 90 * angle / Math.PI;
    make("rect", { x: -90, y: -90, width: 180, height: 180 });
    make("text", { x: 0, y: 104, "text-anchor": "middle" }, data.axes[0] + " from −180° to 180°");
    make("text", { x: -95, y: 0, "text-anchor": "middle", transform: "rotate(-90 -95 0)" }, data.axes[1]);
    circles = data.angles.map((pair, k) => {
      const radius = 2.5 + 12 * Math.sqrt(data.share[k]);
      const circle = make("circle", { cx: at(pair[0]), cy: -at(pair[1]), r: radius, tabindex: 0, role: "button" });
      circle.setAttribute("aria-label", describe(k));
      circle.addEventListener("click", () => show(k));
      circle.addEventListener("keydown", (event) => { if (event.key === "Enter") show(k); });
      return circle;
    });
  }
  slider.max = data.frame.length - 1;
  slider.addEventListener("input", () => show(Number(slider.value)));
  document.getElementById("next").addEventListener("click", () => show((Number(slider.value) + 1) % data.frame.length));
  drawMap();
  if (typeof NGL === "undefined") { fail("the NGL library is missing."); return; }
  const canvas = document.createElement("canvas");
  if (!(canvas.getContext("webgl2") || canvas.getContext("webgl"))) { fail("this browser has no WebGL."); return; }
  box.hidden = false; picture.hidden = true;
  try {
    stage = new NGL.Stage("canvas", { backgroundColor: "white", clipDist: 0, clipNear: 0, fogNear: 70 });
    const blob = () => new Blob([data.pdb], { type: "text/plain" });
    Promise.all([
      stage.loadFile(blob(), { ext: "pdb", asTrajectory: true, name: "chosen" }),
      stage.loadFile(blob(), { ext: "pdb", name: "all" }),
    ]).then(([one, many]) => {
      one.addRepresentation("ball+stick", { multipleBond: "off" });
      solid = one.addTrajectory().trajectory;
      all = many.addRepresentation("line", { opacity: 0.35, linewidth: 1 });
      document.getElementById("all").addEventListener("change", (event) => all.setVisibility(event.target.checked));
      one.autoView();
      stage.viewerControls.zoom(0.25);
      show(0);
      window.addEventListener("resize", () => stage.handleResize());
      window.stage = stage;
      document.documentElement.dataset.viewer = "drawn";
    }).catch((error) => fail(String(error)));
  } catch (error) { fail(String(error)); }
})();
"""

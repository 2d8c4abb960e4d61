// Looks at the page from inside, and says what it sees in attributes of the document.
const seen = (element) => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
const all = (selector) => Array.from(document.querySelectorAll(selector)).filter(seen);
const tell = (name, value) => document.documentElement.setAttribute("data-seen-" + name, value);
tell("clauses", all("[data-clause]").map((row) => row.dataset.clause).join(" "));
tell("cases", all("[data-case]").length);
tell("cells", all("#clauses [data-clause] td").length);
tell("failures", all(".failure pre").length);
tell("failure", all(".failure pre")[0].textContent.includes("document.title='owned'"));
tell("lanes", all("svg .lane").length);
tell("spans", all("svg .grant rect").length);
tell("bands", all("svg .band rect").length);
tell("tokens", all("svg .grant text").map((text) => text.textContent).join(" "));
tell("overflow", document.documentElement.scrollWidth > document.documentElement.clientWidth);
tell("scripts", document.querySelectorAll("script").length);
tell("images", document.querySelectorAll("img:not(#control)").length);
tell("title", document.title);
const colours = getComputedStyle(document.body);
const light = (colour) => { const [r, g, b] = colour.match(/[\d.]+/g).map((part) => {
    const value = part / 255; return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (element) => { for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor; if (!/, 0\)$/.test(colour)) return colour; }
    return "rgb(255, 255, 255)"; };
const contrast = (element) => { const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05); };
const texts = all("h1, h2, p, td, th, dt, dd, li, pre, a:not(.skip), .key:not(.fault)");
tell("contrast", Math.min(...texts.map(contrast)).toFixed(2));
tell("dark", light(colours.backgroundColor) < 0.2);

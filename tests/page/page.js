// Opens pages in headless Chromium: they show, fold, select, filter and sort, and the console stays without errors.
// usage: node page.js CHROMIUM PAGE.html .. ; GRAPHC_SCREENSHOTS=DIR keeps pictures.
"use strict";
const { chromium } = require("playwright-core");
const path = require("node:path");

let passed = 0, failed = 0;
function check(what, holds) {
  holds ? passed++ : failed++;
  if (!holds) console.error(`failed: ${what}`);
}

async function page(browser, file) {
  const view = await browser.newPage({ viewport: { width: 1600, height: 950 } });
  const errors = [], requests = [];
  view.on("console", message => { if (message.type() === "error") errors.push(message.text()); });
  view.on("pageerror", error => errors.push(String(error)));
  view.on("request", request => { if (!/^(file|data):/.test(request.url())) requests.push(request.url()); });
  const name = path.basename(file, ".html");
  const at = what => `${name}: ${what}`;
  const count = selector => view.locator(selector).count();
  const shot = async label => {
    const folder = process.env.GRAPHC_SCREENSHOTS;
    if (folder) await view.screenshot({ path: path.join(folder, `${name}-${label}.png`) });
  };
  await view.goto(`file://${path.resolve(file)}`);
  const passes = await view.evaluate(() => data.entries[0].passes.length);
  const layers = await view.evaluate(() => new Set(data.entries[0].passes.map(p => p.path.split("/")[0]).filter(n => /^l\d+$/.test(n))).size);
  check(at("opens with memory, table and plot"), await count("#map rect.box") > 0 && await count("#table tbody tr") > 0 && await count("#plot circle") > 0);
  await shot("open");

  const folded = await count("#tree .node"), group = "#tree .node[data-path='/l*']";
  await view.dblclick(group);
  check(at("unfolds into layers"), await count("#tree .node") === folded + layers);
  await view.dblclick(group);
  check(at("folds again"), await count("#tree .node") === folded);
  await view.click(`${group} .fold`);
  await view.click("#tree .node[data-path='/l*/l0'] .fold");
  check(at("unfolds one layer"), await count("#tree .node") > folded + layers);

  const few = await count("#table tbody tr");
  await view.check("#unfold");
  check(at("the table shows every pass"), await count("#table tbody tr") === passes && passes > few);
  await view.uncheck("#unfold");

  await view.click("#table tbody tr:has-text('attention') >> nth=0");
  const picked = await view.evaluate(() => [...window.eval("picked")].map(id => window.eval("passes")[id].path));
  check(at("a row selects its passes in every layer"), picked.length === layers && picked.every(one => one.includes("attention")));
  check(at("the selection is in memory, tree and plot"), await count("#map .picked") > 0 && await count("#tree .picked") > 0 && await count("#plot .picked") > 0);
  check(at("bytes that others use, too, are outlined"), await count("#map .shares") > 0);
  check(at("the source of the pass is shown"), (await view.textContent("#facts pre .here") || "").trim().length > 0);
  await shot("selected");
  await view.click("#map rect.box >> nth=3", { position: { x: 2, y: 2 } });
  check(at("a piece of memory selects its writer"), await view.evaluate(() => window.eval("picked.size")) >= 1);
  await view.locator("#plot circle").last().dispatchEvent("click");
  check(at("a dot selects"), await count("#table tbody tr.picked") >= 1);
  await view.click("#clear");
  check(at("nothing is selected any more"), await count(".picked") === 0);

  const column = key => view.evaluate(key => window.eval("rows")().length && [...document.querySelectorAll("#table tbody tr")].map(row => row.children[key].textContent), key);
  await view.click("#table th[data-key=path]");
  const up = await column(0);
  await view.click("#table th[data-key=path]");
  const down = await column(0);
  check(at("sorts both ways"), up.length > 1 && JSON.stringify(up) === JSON.stringify([...down].reverse()) && up[0] !== down[0]);

  await view.fill("#filter", "attention");
  const left = await column(0);
  check(at("filters table and tree"), left.length > 0 && left.length < few && left.every(text => text.includes("attention")));
  await view.fill("#filter", "no such pass");
  check(at("a filter may leave nothing"), await count("#table tbody tr") === 0);
  await view.fill("#filter", "");
  check(at("and everything comes back"), await count("#table tbody tr") === few);
  check(at(`no errors: ${errors.join("; ")}`), errors.length === 0);
  check(at(`no network: ${requests.join("; ")}`), requests.length === 0);
  await view.close();
}

(async () => {
  const [executablePath, ...files] = process.argv.slice(2);
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    for (const file of files) await page(browser, file);
  } finally {
    await browser.close();
  }
  console.log(`test result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed;`);
  process.exitCode = failed || !passed ? 1 : 0;
})();

"use strict";
// Draws the page from its data. A selection is a set of passes; every view shows it, and a click in any view makes it.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let entry, passes, picked = new Set(), open = new Set(), sort = { key: "time", down: true };

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value; else if (key.startsWith("on")) node[key] = value;
    else if (key === "style") node.style.cssText = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}
function draw(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function prefixed(number) {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let at = 0;
  while (Math.abs(number) >= 1000 && at < prefixes.length - 1) { number /= 1000; at++; }
  return (at === 0 ? Math.round(number) : number.toPrecision(3)) + " " + prefixes[at];
}
const time = us => us == null ? "-" : us >= 1e3 ? (us / 1e3).toPrecision(4) + " ms" : us.toPrecision(3) + " us";
const sum = (list, of) => list.reduce((total, item) => total + (of(item) || 0), 0);
const kernels = () => [...new Set(data.entries.flatMap(one => one.passes.map(pass => pass.kernel)))];
const color = pass => `var(--c${kernels().indexOf(pass.kernel) % 8})`;

// ---- what is selected
function pick(ids, extend) {
  if (!extend) picked = new Set();
  ids.forEach(id => picked.add(id));
  show();
}
function show() {
  for (const node of document.querySelectorAll("[data-passes]")) {
    const ids = node.dataset.passes.split(",");
    node.classList.toggle("picked", ids.some(id => picked.has(+id)));
  }
  const bytes = touched();
  for (const box of document.querySelectorAll("#map rect.box")) {
    const tensor = entry.tensors[box.dataset.tensor];
    const own = bytes.some(other => other === tensor);
    const shares = !own && bytes.some(other => overlaps(other, tensor));
    box.classList.toggle("picked", own);
    box.classList.toggle("shares", shares);
    box.classList.toggle("dim", picked.size > 0 && !own && !shares);
  }
  facts();
}
const touched = () => [...new Set([...picked].flatMap(id => passes[id].ports
  .map(port => entry.tensors[entry.tensors[port.tensor].root])))].filter(tensor => tensor.life);
const overlaps = (a, b) => a.arena === b.arena && a.start < b.end && b.start < a.end;
const visible = pass => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${pass.path} ${pass.kernel} ${pass.variant} ${pass.file}:${pass.line}`.toLowerCase();
  return words.every(word => text.includes(word));
};

// ---- the graph as a tree; layers that are alike stand together
function tree() {
  const root = { children: new Map(), ids: [], path: "" };
  passes.forEach((pass, id) => {
    if (!visible(pass)) return;
    const parts = pass.path.split("/"), folds = pass.fold.split("/");
    let node = root;
    parts.forEach((part, depth) => {
      // An index of a repeat becomes two levels: all of them, and each.
      for (const name of folds[depth] !== part ? [folds[depth], part] : [part]) {
        const path = node.path + "/" + name;
        if (!node.children.has(name)) node.children.set(name, { children: new Map(), ids: [], path, name });
        node = node.children.get(name);
        node.ids.push(id);
      }
    });
  });
  const total = sum(passes, pass => pass.time), box = $("tree");
  box.replaceChildren();
  const walk = (node, depth) => {
    for (const child of node.children.values()) {
      const cost = sum(child.ids, id => passes[id].time), inner = child.children.size > 0, isOpen = open.has(child.path);
      const repeat = child.name.endsWith("*") ? ` x ${child.children.size}` : inner ? ` (${child.ids.length})` : "";
      const flip = event => { event.stopPropagation(); isOpen ? open.delete(child.path) : open.add(child.path); tree(); show(); };
      const line = make("div", { class: "node", "data-path": child.path, style: `padding-left:${8 + depth * 13}px`,
        onclick: event => pick(child.ids, event.shiftKey), ondblclick: inner ? flip : null },
        make("span", { class: "fold", onclick: inner ? flip : null }, inner ? (isOpen ? "\u25be" : "\u25b8") : ""),
        make("span", { class: "dot", style: inner ? "visibility:hidden;width:0" : `background:${color(passes[child.ids[0]])}` }),
        make("span", { class: "name", title: child.path.slice(1) }, child.name + repeat),
        make("span", { class: "cost" }, total > 0 ? (100 * cost / total).toFixed(1) + " %" : ""),
        make("span", { class: "bar", style: `width:${total > 0 ? 100 * cost / total : 0}%` }));
      line.dataset.passes = child.ids.join(",");
      box.append(line);
      if (isOpen) walk(child, depth + 1);
    }
  };
  walk(root, 0);
}

// ---- who lies where, from wave to wave
function map() {
  const boxes = entry.tensors.map((tensor, id) => [tensor, id]).filter(([tensor]) => tensor.life);
  const arenas = [...new Set(boxes.map(([tensor]) => tensor.arena))].sort((a, b) => a - b);
  const base = {}; let top = 0;
  arenas.forEach(arena => { base[arena] = top; top += Math.max(...boxes.filter(([t]) => t.arena === arena).map(([t]) => t.end)); });
  const space = $("map").clientWidth || 600, left = 62, high = Math.max(120, ($("map").clientHeight || 260) - 30);
  const step = Math.max(5, (space - left - 14) / Math.max(1, entry.waves)), wide = left + step * entry.waves + 10;
  const y = (arena, byte) => 6 + high * (base[arena] + byte) / Math.max(1, top);
  const svg = draw("svg", { width: wide, height: high + 26 });
  for (let mark = 0; mark <= 4; mark++) {
    const at = 6 + high * mark / 4;
    svg.append(draw("line", { x1: left - 4, x2: wide, y1: at, y2: at, class: "axis" }),
      draw("text", { x: left - 8, y: at + 3, "text-anchor": "end" }, prefixed(top * mark / 4) + "B"));
  }
  const every = Math.max(1, Math.ceil(34 / step));
  for (let wave = 0; wave < entry.waves; wave += every) {
    svg.append(draw("text", { x: left + (wave + .5) * step, y: high + 20, "text-anchor": "middle" }, String(wave)));
  }
  const writer = new Map();
  passes.forEach((pass, id) => pass.ports.filter(port => port.writes).forEach(port => {
    const root = entry.tensors[port.tensor].root;
    if (!writer.has(root)) writer.set(root, []);
    writer.get(root).push(id);
  }));
  for (const [tensor, id] of boxes) {
    const ids = writer.get(id) || [], tall = Math.max(1, y(tensor.arena, tensor.end) - y(tensor.arena, tensor.start));
    const box = draw("rect", { class: "box", x: left + tensor.life[0] * step, y: y(tensor.arena, tensor.start),
      width: Math.max(1, (tensor.life[1] - tensor.life[0]) * step - .5), height: tall, "data-tensor": id,
      style: `fill:${ids.length ? color(passes[ids[0]]) : "var(--c7)"}` },
      draw("title", {}, `${tensor.name}\n${tensor.dtype} [${tensor.shape}], bytes ${tensor.start}..${tensor.end}, waves ${tensor.life[0]}..${tensor.life[1] - 1}`));
    box.onclick = event => pick(ids, event.shiftKey);
    svg.append(box);
    if (tall > 13 && (tensor.life[1] - tensor.life[0]) * step > 46) {
      const name = tensor.name.split("/").pop();
      svg.append(draw("text", { x: left + tensor.life[0] * step + 4, y: y(tensor.arena, tensor.start) + 11, style: "fill:#fff;pointer-events:none" },
        name.slice(0, Math.floor((tensor.life[1] - tensor.life[0]) * step / 6.5))));
    }
  }
  $("map").replaceChildren(svg);
  $("memory-note").textContent = `${prefixed(entry.planned)}B planned, ${prefixed(entry.naive)}B without sharing, ${prefixed(entry.bound)}B at least; the outlined share bytes with the selection`;
}

// ---- rows of the table and dots of the plot: passes, or those of all layers together
function rows() {
  const groups = new Map();
  passes.forEach((pass, id) => {
    if (!visible(pass)) return;
    const key = $("unfold").checked ? pass.path : [pass.fold, pass.kernel, pass.variant, pass.label].join("|");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(id);
  });
  const total = sum(passes, pass => pass.time);
  return [...groups.values()].map(ids => {
    const all = ids.map(id => passes[id]), first = all[0];
    const row = { ids, first, path: ids.length > 1 ? first.fold : first.path, kernel: `${first.kernel} ${first.variant}`,
      count: ids.length, time: first.time == null ? null : sum(all, p => p.time), p95: sum(all, p => p.p95), bytes: sum(all, p => p.bytes), flops: sum(all, p => p.flops),
      wave: first.wave, place: `${first.file}:${first.line}` };
    const seconds = row.time * 1e-6;
    row.share = total > 0 ? row.time / total : 0;
    row.bytesRate = seconds > 0 ? row.bytes / seconds : 0;
    row.flopsRate = seconds > 0 ? row.flops / seconds : 0;
    const least = first.least == null ? null : sum(all, p => p.least);
    row.roof = least != null && row.time > 0 ? least / row.time : null;
    row.bound = first.bound || "-";
    return row;
  });
}
const COLUMNS = [
  ["path", "pass", row => row.path, true], ["kernel", "kernel", row => row.kernel, true], ["count", "count", row => row.count],
  ["wave", "wave", row => row.wave], ["time", "time", row => time(row.time)], ["p95", "p95", row => time(row.p95)],
  ["share", "share", row => (100 * row.share).toFixed(1) + " %"], ["bytes", "bytes", row => prefixed(row.bytes)],
  ["flops", "FLOP", row => prefixed(row.flops)], ["bytesRate", "B/s", row => prefixed(row.bytesRate)],
  ["flopsRate", "FLOP/s", row => prefixed(row.flopsRate)],
  ["roof", "of roof", row => row.roof == null ? "-" : (100 * row.roof).toFixed(0) + " %"], ["bound", "bound", row => row.bound, true],
  ["place", "place", row => row.place, true],
];
function table() {
  const head = make("tr");
  for (const [key, title, , left] of COLUMNS) {
    const arrow = sort.key === key ? (sort.down ? " \u25be" : " \u25b4") : "";
    head.append(make("th", { class: (left ? "left" : "") + (sort.key === key ? " sorted" : ""), "data-key": key,
      onclick: () => { sort = { key, down: sort.key === key ? !sort.down : !left }; table(); show(); } }, title + arrow));
  }
  document.querySelector("#table thead").replaceChildren(head);
  const list = rows(), way = sort.down ? -1 : 1;
  list.sort((a, b) => {
    const [x, y] = [a[sort.key], b[sort.key]];
    return way * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : (x ?? -1) - (y ?? -1));
  });
  document.querySelector("#table tbody").replaceChildren(...list.map(row => {
    const line = make("tr", { onclick: event => pick(row.ids, event.shiftKey) },
      ...COLUMNS.map(([, , text, left]) => make("td", left ? { class: "left" } : {}, text(row))));
    line.firstChild.prepend(make("span", { class: "dot", style: `background:${color(row.first)};margin-right:6px` }));
    line.dataset.passes = row.ids.join(",");
    return line;
  }));
}

// ---- how far each pass is from what the device can do
function plot() {
  const roofs = entry.roofs, wide = $("plot").clientWidth || 380, high = 240, left = 48, bottom = 24;
  const dots = rows().filter(row => row.flopsRate > 0 && row.bytes > 0).map(row => ({ row, x: row.flops / row.bytes, y: row.flopsRate }));
  const ceilings = [["matrix units", roofs.matrix_f16_flops], ["f32", roofs.f32_flops]].filter(([, roof]) => roof);
  const memory = roofs.read_bytes_per_s;
  const xs = [.1, 100, ...dots.map(dot => dot.x), ...ceilings.map(([, roof]) => memory ? 2 * roof / memory : 1)];
  const ys = [...dots.map(dot => dot.y), ...ceilings.map(([, roof]) => roof), ...(memory ? [memory] : [])];
  if (!ys.length) ys.push(1e9);
  const range = list => [Math.floor(Math.log10(Math.min(...list))), Math.ceil(Math.log10(Math.max(...list)) + .05)];
  const [x0, x1] = range(xs), [y0, y1] = range(ys);
  const X = value => left + (wide - left - 10) * (Math.log10(value) - x0) / (x1 - x0);
  const Y = value => 8 + (high - bottom - 8) * (y1 - Math.log10(value)) / (y1 - y0);
  const svg = draw("svg", { width: wide, height: high });
  for (let power = x0; power <= x1; power++) {
    svg.append(draw("line", { x1: X(10 ** power), x2: X(10 ** power), y1: Y(10 ** y0), y2: Y(10 ** y1), class: "axis" }),
      draw("text", { x: X(10 ** power), y: high - 8, "text-anchor": "middle" }, power < 0 ? (10 ** power).toFixed(-power) : prefixed(10 ** power)));
  }
  for (let power = y0; power <= y1; power++) {
    svg.append(draw("line", { x1: left, x2: wide - 10, y1: Y(10 ** power), y2: Y(10 ** power), class: "axis" }),
      draw("text", { x: left - 5, y: Y(10 ** power) + 3, "text-anchor": "end" }, prefixed(10 ** power)));
  }
  const highest = Math.max(...ceilings.map(([, roof]) => roof), 0);
  if (memory) {
    const end = highest ? Math.min(10 ** x1, highest / memory) : 10 ** x1, start = Math.max(10 ** x0, 10 ** y0 / memory);
    if (start < end) svg.append(draw("line", { x1: X(start), y1: Y(start * memory), x2: X(end), y2: Y(end * memory), class: "roof" }),
      draw("text", { x: X(start) + 6, y: Y(start * memory) - 12 }, prefixed(memory) + "B/s"));
  }
  for (const [name, roof] of ceilings) {
    const start = memory ? Math.max(10 ** x0, roof / memory) : 10 ** x0;
    svg.append(draw("line", { x1: X(start), y1: Y(roof), x2: wide - 10, y2: Y(roof), class: "roof" }),
      draw("text", { x: wide - 12, y: Y(roof) - 4, "text-anchor": "end" }, `${name} ${prefixed(roof)}FLOP/s`));
  }
  dots.sort((a, b) => b.row.share - a.row.share);
  for (const { row, x, y } of dots) {
    const dot = draw("circle", { cx: X(x), cy: Y(y), r: 3 + 12 * Math.sqrt(row.share), style: `fill:${color(row.first)}`, "data-passes": row.ids.join(",") },
      draw("title", {}, `${row.path}\n${prefixed(row.flopsRate)}FLOP/s at ${x.toPrecision(3)} FLOP per byte, ${(100 * row.share).toFixed(1)} % of the time`));
    dot.onclick = event => pick(row.ids, event.shiftKey);
    svg.append(dot);
  }
  $("plot").replaceChildren(svg);
}

// ---- the selected pass, its places and its source
function facts() {
  const box = $("facts");
  if (!picked.size) { box.replaceChildren("Click a pass, a layer, a piece of memory or a dot. Shift adds to the selection."); return; }
  const ids = [...picked], pass = passes[ids[0]];
  let list = make("dl");
  const fact = (name, ...value) => list.append(make("dt", {}, name), make("dd", {}, ...value));
  fact("kernel", `${pass.kernel} ${pass.variant}`, pass.label ? ` (${pass.label})` : "");
  fact("wave", `${pass.wave}, ${pass.groups.join(" x ")} workgroups`);
  fact("time", `${time(pass.time)}, p95 ${time(pass.p95)}`, pass.least == null ? "" : `; the roof allows ${time(pass.least)} (${pass.bound})`);
  fact("work", `${prefixed(pass.bytes)}B, ${prefixed(pass.flops)}FLOP`);
  if (pass.fused.length) fact("made of", pass.fused.join(", "));
  const parts = [make("h3", {}, pass.path + (ids.length > 1 ? ` and ${ids.length - 1} more` : "")), list, make("div", {}, `${pass.file}:${pass.line}`)];
  const text = data.sources[pass.file];
  if (text != null) {
    const code = make("pre");
    text.split("\n").forEach((line, index) => code.append(make("div", index + 1 === pass.line ? { class: "here" } : {}, make("i", {}, String(index + 1)), line)));
    parts.push(code);
  }
  list = make("dl");
  parts.push(list);
  for (const port of pass.ports) {
    const tensor = entry.tensors[port.tensor], root = entry.tensors[tensor.root];
    const way = port.reads && port.writes ? "reads and writes" : port.reads ? "reads" : "writes";
    const shared = root.life ? entry.tensors.filter(other => other.life && other !== root && overlaps(other, root)) : [];
    fact(port.port, `${way} `, make("code", {}, tensor.name), ` ${tensor.dtype} [${tensor.shape}] at ${tensor.arena}:${tensor.start}..${tensor.end}`,
      shared.length ? `; its bytes are also those of ${shared.slice(0, 4).map(other => other.name).join(", ")}${shared.length > 4 ? ` and ${shared.length - 4} more` : ""}` : "");
  }
  box.replaceChildren(...parts);
  const here = box.querySelector(".here");
  if (here) here.parentNode.scrollTop = here.offsetTop - here.parentNode.offsetTop - 90;
}

function refresh() { tree(); table(); plot(); show(); }
function choose(index) {
  entry = data.entries[index]; passes = entry.passes; picked = new Set(); open = new Set();
  const gap = total => entry.whole.median > 0 ? `${(100 * (total - entry.whole.median) / entry.whole.median).toFixed(1)} %` : "-";
  $("summary").replaceChildren(make("b", {}, time(entry.whole.median)), ` on the device (p95 ${time(entry.whole.p95)}), wall ${time(entry.wall.median)}; sum of waves ${time(entry.waves_sum.median)} (${gap(entry.waves_sum.median)}), sum of passes ${time(entry.passes_sum.median)} (${gap(entry.passes_sum.median)}). ` +
    `${passes.length} passes, ${entry.waves} waves, ${entry.barriers} barriers, ${entry.submits} submit${entry.submits > 1 ? "s" : ""}${entry.rounds > 1 ? `, ${entry.rounds} rounds` : ""}. ${entry.device} (${entry.driver})${entry.random ? ", made-up weights" : ""}, ${entry.runs} runs.`);
  $("advice").replaceChildren(make("ol", {}, ...entry.advice.map(text => make("li", {}, text))));
  map(); refresh();
}
$("title").textContent = data.graph;
data.entries.forEach((one, index) => $("entry").append(make("option", { value: index }, one.name)));
$("entry").onchange = () => choose(+$("entry").value);
$("filter").oninput = refresh;
$("unfold").onchange = refresh;
$("clear").onclick = () => pick([]);
addEventListener("resize", () => { map(); plot(); show(); });
choose(0);

"use strict";
// Draws the trace that stands in #data. Texts of models only ever become text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const TOP = 26, KEPT = 62, LOST = 22, GAP = 8, LISTED = 16;
let LANE = 40, ROOT = 116;  // space between columns, width of the prompt; less on a phone

function el(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((c) => c !== null));
  return made;
}
function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return made;
}
const number = (score) => (score === null ? NaN : Number(score === "inf" ? Infinity : score === "-inf" ? -Infinity : score));
function shown(score) {
  const value = number(score);
  if (Number.isNaN(value)) return "no score";
  if (!Number.isFinite(value)) return value > 0 ? "+∞" : "−∞";
  const digits = Math.abs(value) < 1000 ? Math.abs(value).toFixed(2) : Math.abs(value).toPrecision(4);
  return (value < 0 ? "−" : "+") + digits;
}
const ENDS = { eos: "ended by itself", stop: "ended at a stop text", length: "reached the token limit" };
const isKept = (fate) => fate === "kept" || fate === "filler";
const SIGNS = { "\n": "↵\n", "\t": "⇥\t", "\r": "␍" };
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;
// The text with what cannot be seen shown as signs; flat keeps it on one line.
function signed(text, flat) {
  const out = document.createDocumentFragment();
  let plain = "";
  if (/^ +$/.test(text)) return out.append(el("span", "sign", "␣".repeat(text.length))), out;
  for (const c of text) {
    if (!INVISIBLE.test(c)) { plain += c; continue; }
    out.append(plain);
    plain = "";
    const sign = SIGNS[c] || "‹U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "›";
    out.append(el("span", "sign", flat ? sign[0] === "‹" ? sign : sign[0] : sign));
  }
  out.append(plain);
  return out;
}

let prompt = null;       // the one that is drawn
let cards = new Map();   // "round:row" -> its button
let edges = new Map();   // "round:row" -> the line from its parent
let held = null;         // [round, row] that stays when the pointer leaves
let everyone = false;    // all dropped candidates, however many
const key = (round, row) => round + ":" + row;

function lineage(round, row) {
  const line = [];
  for (; round >= 0; row = prompt.rounds[round].parent[row], round--) line.unshift([round, row]);
  return line;
}
function winner() {
  const last = prompt.rounds.length - 1;
  return last >= 0 && prompt.result && prompt.result.row !== null ? [last, prompt.result.row] : null;
}

// As wide as all rounds fit, within what the texts need.
function columns() {
  const rounds = prompt.rounds, room = (at("scroll").clientWidth - ROOT) / rounds.length - LANE;
  if (rounds.length === 1) return Math.max(260, Math.min(720, room));
  let longest = 0;
  for (const r of rounds) r.gained.forEach((t, row) => { if (isKept(r.fate[row])) longest = Math.max(longest, t.length); });
  return Math.floor(Math.max(132, Math.min(250, 60 + longest * 8, room)));
}

function drawBoard() {
  const phone = at("scroll").clientWidth < 600;
  [LANE, ROOT] = phone ? [26, 76] : [40, 116];
  const board = at("board"), width = columns();
  const single = prompt.rounds.length === 1;
  const kept = single ? 96 : KEPT;
  board.replaceChildren();
  cards = new Map(); edges = new Map();
  const place = new Map();  // "round:row" -> [x, y middle]
  let bottom = TOP + kept, hidden = 0;
  prompt.rounds.forEach((round, r) => {
    const x = ROOT + LANE + r * (width + LANE);
    const head = el("div", "head", el("b", "", "round " + (r + 1)), " · " + round.written + (round.written === 1 ? " token" : " tokens"));
    head.style.left = x + "px";
    head.style.width = width + LANE - 8 + "px";
    board.append(head);
    let y = TOP, lost = 0;
    for (const row of round.ranked) {
      const big = isKept(round.fate[row]);
      if (!big && !everyone && ++lost > LISTED) { hidden++; continue; }
      const height = big ? kept : LOST;
      const card = makeCard(r, row, big, width, single ? 4 : 2);
      Object.assign(card.style, { left: x + "px", top: y + "px", width: width + "px", height: height + "px" });
      cards.set(key(r, row), card);
      place.set(key(r, row), [x, y + height / 2]);
      y += height + (big ? GAP : 3);
    }
    bottom = Math.max(bottom, y);
  });
  const total = ROOT + prompt.rounds.length * (width + LANE);
  const first = prompt.rounds[0];
  const middle = first && first.path !== null ? place.get(key(0, first.path))[1] : TOP + kept / 2;
  const root = el("div", "card root", el("span", "gained", signed(prompt.text, true)));
  root.title = prompt.text;
  root.style.setProperty("--lines", 3);
  Object.assign(root.style, { left: 0, top: middle - 32 + "px", width: ROOT + "px", height: "64px" });
  const lines = svg("svg", { width: total, height: bottom, "aria-hidden": "true" });
  drawEdges(lines, place, width, [ROOT, middle]);
  board.style.width = total + "px";
  board.style.height = bottom + "px";
  board.append(lines, root, ...cards.values());
  const more = at("more");
  more.hidden = !hidden && !everyone;
  more.textContent = everyone ? "Show fewer dropped" : "Show " + hidden + " more dropped";
}

function makeCard(r, row, big, width, lines) {
  const round = prompt.rounds[r], fate = round.fate[row], rank = round.ranked.indexOf(row) + 1;
  const gain = number(round.gain[row]), path = round.path === row;
  const won = path && r === prompt.rounds.length - 1;
  const marks = [won ? "★" : "", ["", "✓ ends", "✓ ended"][round.end[row]],
    fate === "kept" || fate === "dropped" ? "" : fate].filter(Boolean).join(" ");
  const gained = el("span", "gained", round.gained[row] ? signed(round.gained[row].replace(/^ +(?=[^ ])/, ""), true)
    : el("span", "sign", round.tokens[row].length ? "(no text)" : "(nothing new)"));
  gained.dir = "auto";
  gained.style.setProperty("--lines", lines);
  const change = el("span", gain < 0 ? "down" : "up", shown(round.gain[row]));
  const card = big
    ? el("button", "card " + fate, el("span", "numbers", el("b", "", shown(round.score[row])), r ? change : null, el("span", "mark", marks)), gained)
    : el("button", "card lost " + fate, el("span", "score", shown(round.score[row])), gained, marks ? el("span", "mark", marks) : null);
  card.type = "button";
  card.tabIndex = -1;
  if (path) card.classList.add("path");
  const level = el("span", "level");
  level.style.width = Math.round(100 * share(number(round.score[row]))) + "%";
  card.append(level);
  card.setAttribute("aria-label", "round " + (r + 1) + ", rank " + rank + " of " + round.ranked.length + ", score " +
    shown(round.score[row]) + ", " + fate + (path ? ", leads to the winner" : "") + ": " + round.gained[row]);
  card.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && !held) select(r, row); });
  card.addEventListener("focus", () => { if (!held) select(r, row); });
  card.addEventListener("click", () => {
    const same = held && held[0] === r && held[1] === row;
    held = same ? null : [r, row];
    select(r, row);
  });
  card.addEventListener("keydown", (event) => move(event, r, row));
  return card;
}

let chosen = null;  // the candidate in the detail
function redraw() {
  if (!prompt.rounds.length) return;
  drawBoard();
  select(...chosen);
}

let range = [0, 1];
function measure() {
  let low = Infinity, high = -Infinity;
  for (const round of prompt.rounds) for (const s of round.score.map(number)) if (Number.isFinite(s)) { low = Math.min(low, s); high = Math.max(high, s); }
  range = low <= high ? [low, high === low ? low + 1 : high] : [0, 1];
}
const share = (score) => (Number.isFinite(score) ? 0.02 + 0.98 * (score - range[0]) / (range[1] - range[0]) : score > 0 ? 1 : 0);

function drawEdges(lines, place, width, start) {
  const drawn = [];
  prompt.rounds.forEach((round, r) => round.ranked.forEach((row) => {
    const to = place.get(key(r, row));
    const from = r === 0 ? start : place.get(key(r - 1, round.parent[row]));
    if (!to || !from) return;
    const x = r === 0 ? from[0] : from[0] + width, bend = LANE * 0.55;
    const kind = round.path === row ? " path" : isKept(round.fate[row]) ? "" : " dropped";
    const edge = svg("path", { class: "edge" + kind, d: `M${x} ${from[1]}C${x + bend} ${from[1]} ${to[0] - bend} ${to[1]} ${to[0]} ${to[1]}` });
    edges.set(key(r, row), edge);
    drawn.push([kind === " path" ? 2 : kind ? 0 : 1, edge]);
  }));
  drawn.sort((a, b) => a[0] - b[0]).forEach(([, edge]) => lines.append(edge));
}

function move(event, r, row) {
  const order = prompt.rounds[r].ranked.filter((other) => cards.has(key(r, other)));
  let go = null;
  if (event.key === "ArrowUp") go = [r, order[order.indexOf(row) - 1]];
  else if (event.key === "ArrowDown") go = [r, order[order.indexOf(row) + 1]];
  else if (event.key === "ArrowLeft" && r > 0) go = [r - 1, prompt.rounds[r].parent[row]];
  else if (event.key === "ArrowRight" && r + 1 < prompt.rounds.length) {
    const next = prompt.rounds[r + 1];
    const children = next.ranked.filter((other) => next.parent[other] === row && cards.has(key(r + 1, other)));
    go = [r + 1, children.includes(next.path) ? next.path : children[0]];
  } else if (event.key === "Escape") { held = null; select(r, row); return; }
  else return;
  event.preventDefault();
  const card = go && cards.get(key(...go));
  if (!card) return;
  held = null;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function select(r, row) {
  chosen = [r, row];
  for (const shownCard of [...cards.values(), ...edges.values()]) shownCard.classList.remove("traced", "selected");
  const line = lineage(r, row);
  for (const [round, one] of line) for (const map of [cards, edges]) map.get(key(round, one))?.classList.add("traced");
  for (const card of cards.values()) card.tabIndex = -1;
  const card = cards.get(key(r, row));
  if (card) { card.classList.add("selected"); card.tabIndex = 0; }
  drawDetail(line);
  drawPlot(line);
}

function drawDetail(line) {
  const [r, row] = line[line.length - 1], round = prompt.rounds[r], fate = round.fate[row];
  const rank = round.ranked.indexOf(row) + 1;
  const isHeld = held && held[0] === r && held[1] === row;
  const won = winner() && winner()[0] === r && winner()[1] === row;
  const state = won ? "★ the winner, " + (ENDS[prompt.result.reason] || prompt.result.reason) : fate === "clone" ? "a copy of a finished candidate, holds no place of its own"
    : fate === "filler" ? "fills a place, is never returned" : fate === "unscored" ? "its score is not a number" : fate;
  const ended = won ? "" : ["", ", ended in this round", ", had ended before"][round.end[row]];
  const steepest = Math.max(1e-9, ...line.map(([a, b]) => Math.abs(number(prompt.rounds[a].gain[b]))).filter(Number.isFinite));
  const text = el("p", "text", el("span", "prompt", signed(prompt.text)));
  text.dir = "auto";
  const body = el("tbody");
  const ids = [];
  const rewritten = [...line].reverse().find(([a, b]) => prompt.rounds[a].rewrites[b] !== undefined);
  for (const [a, b] of line) {
    const one = prompt.rounds[a], gain = number(one.gain[b]);
    const part = el("span", "seg", signed(one.gained[b]));
    if (Number.isFinite(gain)) {
      part.style.backgroundColor = `rgb(var(--heat-${gain < 0 ? "down" : "up"}) / ${(0.05 + 0.35 * Math.abs(gain) / steepest).toFixed(2)})`;
      part.title = "round " + (a + 1) + ": " + shown(one.gain[b]);
    }
    if (rewritten && a < rewritten[0]) part.textContent = "";
    else if (rewritten && a === rewritten[0]) part.replaceChildren(signed(one.rewrites[b]));
    text.append(part);
    const words = el("td", "", signed(one.gained[b], true));
    words.dir = "auto";
    body.append(el("tr", "", el("td", "", String(a + 1)), el("td", "", String(one.ranked.indexOf(b) + 1)),
      el("td", "", shown(one.score[b])), el("td", gain < 0 ? "down" : "up", shown(one.gain[b])), words));
    ids.push(...one.tokens[b]);
  }
  const heads = ["round", "rank", "score", "gain", "text gained"].map((h) => el("th", "", h));
  const facts = el("div", "", el("p", "figures", el("b", "", shown(round.score[row])), " nats · ", ids.length + " tokens · row " + row + " · " + state + ended), text);
  if (won && prompt.result.text !== line.map(([a, b]) => prompt.rounds[a].gained[b]).join("")) {
    facts.append(el("p", "figures", el("b", "", "returned: "), el("span", "text", signed(prompt.result.text))));
  }
  facts.append(el("details", "", el("summary", "", "token ids"), ids.join(" ")));
  at("detail").replaceChildren(
    el("h2", "", "Prompt " + prompt.place + ", round " + (r + 1) + ", rank " + rank + " of " + round.ranked.length, isHeld ? el("span", "held", " · held") : null),
    el("div", line.length > 1 ? "sides" : "", facts, line.length === 1 ? null : el("table", "", el("thead", "", el("tr", "", ...heads)), body)));
}

function drawPlot(line) {
  const W = 340, H = 158, L = 40, R = 10, T = 8, B = 22;
  const rounds = prompt.rounds, picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  const scores = rounds.map((r) => r.score.map(number).filter(Number.isFinite));
  const all = scores.flat();
  if (!all.length) { at("plot").replaceChildren(el("h2", "", "Scores"), el("p", "empty", "no finite score")); return; }
  let low = Math.min(range[0], 0), high = Math.max(range[1], 0);
  const pad = (high - low || 1) * 0.06;
  low -= pad; high += pad;
  const y = (s) => T + (H - T - B) * (1 - (s - low) / (high - low));
  for (const tick of ticks(low, high)) {
    picture.append(svg("line", { class: tick ? "grid" : "zero", x1: L, x2: W - R, y1: y(tick), y2: y(tick) }),
      svg("text", { x: L - 5, y: y(tick) + 4, "text-anchor": "end" }, String(+tick.toFixed(2)).replace("-", "−")));
  }
  const single = rounds.length === 1;
  if (single) {
    const round = rounds[0], step = (W - L - R) / round.ranked.length;
    round.ranked.forEach((row, rank) => {
      const s = number(round.score[row]);
      if (!Number.isFinite(s)) return;
      picture.append(svg("rect", { class: "rank" + (round.path === row ? " win" : ""), x: L + rank * step + step * 0.12, width: step * 0.76,
        y: Math.min(y(s), y(0)), height: Math.max(1, Math.abs(y(s) - y(0))) }));
      if (line && line[0][1] === row) picture.append(svg("circle", { class: "spot", cx: L + (rank + 0.5) * step, cy: y(s), r: 4 }));
    });
    picture.append(svg("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, "candidates by rank"));
  } else {
    const end = rounds[rounds.length - 1].written, x = (t) => L + (W - L - R) * t / end;
    const route = (values) => "M" + [[0, 0], ...values].map(([t, s]) => x(t).toFixed(1) + " " + y(s).toFixed(1)).join("L");
    const per = (f) => rounds.map((r, i) => [r.written, f(scores[i])]).filter((p) => Number.isFinite(p[1]));
    const top = per((s) => Math.max(...s)), floor = per((s) => Math.min(...s)), mean = per((s) => s.reduce((a, b) => a + b, 0) / s.length);
    picture.append(svg("path", { class: "band", d: route(top) + "L" + [...floor].reverse().map(([t, s]) => x(t) + " " + y(s)).join("L") + "Z" }),
      svg("path", { class: "mean", d: route(mean) }), svg("path", { class: "best", d: route(top) }));
    const win = winner();
    if (win) picture.append(svg("path", { class: "path", d: route(lineage(...win).map(([a, b]) => [rounds[a].written, number(rounds[a].score[b])])) }));
    for (const [a, b] of line || []) {
      const s = number(rounds[a].score[b]);
      if (Number.isFinite(s)) picture.append(svg("circle", { class: "spot", cx: x(rounds[a].written), cy: y(s), r: 3.5 }));
    }
    for (const t of new Set([0, rounds[Math.floor((rounds.length - 1) / 2)].written, end])) {
      picture.append(svg("text", { x: x(t), y: H - 6, "text-anchor": t === end ? "end" : "middle" }, t === end ? t + " tokens" : String(t)));
    }
  }
  picture.append(svg("title", {}, "scores against tokens"));
  const legend = single ? el("p", "legend", "score of every candidate, in nats") : el("p", "legend", el("span", "up", "best"), ", mean (dashed) and range of all; ",
    Object.assign(el("b", "", "winner's line"), { style: "color:var(--win)" }), "; dots: the chosen candidate");
  at("plot").replaceChildren(el("h2", "", single ? "Scores" : "Score against tokens"), picture, legend);
}
function ticks(low, high) {
  const raw = (high - low) / 4, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high; t += step) out.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return out;
}

function draw(index) {
  prompt = data.prompts[index];
  held = null;
  at("prompt").selectedIndex = index;
  at("previous").disabled = index === 0;
  at("next").disabled = index === data.prompts.length - 1;
  measure();
  drawBoard();
  at("scroll").scrollLeft = 0;
  const first = winner() || (prompt.rounds.length ? [prompt.rounds.length - 1, prompt.rounds[prompt.rounds.length - 1].ranked[0]] : null);
  if (first) select(...first);
  else {
    drawPlot(null);
    at("board").replaceChildren(el("p", "empty", "No round of this prompt was finished."));
    at("detail").replaceChildren(el("h2", "", "Prompt " + prompt.place), el("p", "text", signed(prompt.text)));
  }
}

function begin() {
  at("settings").textContent = data.settings;
  at("models").textContent = [...data.models.map(([role, name]) => role + " " + name), data.written].filter(Boolean).join(" · ");
  at("notes").textContent = data.notes.join(". ");
  if (!data.prompts.length) {
    document.querySelector("main").replaceChildren(el("p", "empty", "No prompt was begun: there is nothing to draw."));
    document.querySelector("nav").hidden = true;
    return;
  }
  data.prompts.forEach((one) => {
    const score = one.result && one.result.row !== null ? "  (" + shown(one.result.score) + ")" : "";
    const option = el("option", "", one.place + ": ", signed(one.text.slice(0, 200), true).textContent, score);
    at("prompt").append(option);
  });
  const step = (by) => () => draw(at("prompt").selectedIndex + by);
  at("previous").addEventListener("click", step(-1));
  at("next").addEventListener("click", step(1));
  at("prompt").addEventListener("change", () => draw(at("prompt").selectedIndex));
  at("more").addEventListener("click", () => { everyone = !everyone; redraw(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && held) { const was = held; held = null; select(...was); } });
  let waiting = 0;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
  draw(0);
}
begin();

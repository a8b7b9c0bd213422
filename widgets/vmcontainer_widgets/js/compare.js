// The compare view: one cell as process, container, machine, container in a machine. Each picture's numbers are in a table.

const MEASURES = [
  ["first_byte", (place) => place.first_byte_ms?.median, formatMillis],
  ["end", (place) => place.end_ms?.median, formatMillis],
  ["started", (place) => place.started_ms?.median, formatMillis],
  ["private", (place) => place.memory?.private_bytes, formatBytes],
  ["shared", (place) => place.memory?.shared_bytes, formatBytes],
  ["proportional", (place) => place.memory?.proportional_bytes, formatBytes],
  ["peak", (place) => place.memory?.peak_bytes, formatBytes],
  ["group", (place) => place.group?.peak_bytes, formatBytes],
  ["cpu", (place) => place.cpu_s, formatCpu],
  ["making", (place) => place.making_cpu_s, formatCpu],
  ["start", (place) => objects(place.rounds).map((round) => round.start).filter(Boolean), formatStarts],
];

// How often each way of starting a machine came up in the rounds.
function formatStarts(starts, words) {
  const ways = [...new Set(starts)].map((way) => `${lookup(words.starts, way) ?? visible(way, 20)} × ${starts.filter((one) => one === way).length}`);
  return ways.join(", ") || "—";
}

const CLOCKS = ["uptime_s", "clock_s"]; // one is looked at after the other

function formatMillis(ms) {
  if (!isNumber(ms)) return "—";
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function formatCpu(seconds) {
  return isNumber(seconds) ? formatMillis(seconds * 1000) : "—";
}

const placeName = (words, place) => lookup(words.places, place.name) ?? visible(place.name, 40);
const there = (places) => places.filter((place) => !place.missing);

// Where a value lies, in percent of the width. A logarithm starts a decade below the least.
function scaleOf(values, logarithmic) {
  const known = values.filter((value) => isNumber(value) && value > 0), top = Math.max(...known, 1e-9);
  if (!logarithmic) return (value) => (isNumber(value) ? (100 * value) / top : 0);
  const low = Math.log10(Math.min(...known, top)) - 1, span = Math.log10(top) - low || 1;
  return (value) => (isNumber(value) && value > 0 ? Math.max(0, (100 * (Math.log10(value) - low)) / span) : 0);
}

// One small multiple: a bar for each place, made of `parts`, with dots for the rounds behind it.
function multiple(words, name, parts, dotsOf, textOf) {
  const grid = h("div", { class: "vmc-multiple-rows" });
  const rows = keyedRows(grid, () => {
    const label = h("span", { class: "vmc-soft" }), value = h("span", { class: "vmc-amount vmc-strong" });
    const bars = parts.map(([part]) => s("rect", { class: "vmc-bar vmc-bar-" + part, y: 2, height: 12, rx: 2 })), dots = s("g");
    const dot = keyedRows(dots, () => {
      const node = s("circle", { class: "vmc-dot", cy: 8, r: 3 });
      return { node, update: ({ at }) => setAttribute(node, "cx", `${at.toFixed(2)}%`) };
    });
    const svg = s("svg", { class: "vmc-bars vmc-multiple-bar", "aria-hidden": "true" }, ...bars, dots);
    const update = (place, scale) => {
      setText(label, placeName(words, place));
      setText(value, textOf(place));
      let at = 0, sum = 0;
      parts.forEach(([, sizeOf], i) => {
        sum += sizeOf(place) ?? 0;
        const end = scale(sum);
        setAttribute(bars[i], "x", `${at.toFixed(2)}%`);
        setAttribute(bars[i], "width", `${Math.max(0, end - at).toFixed(2)}%`);
        at = end;
      });
      dot(dotsOf(place).map((one, i) => ({ at: scale(one), i })), (one) => String(one.i));
    };
    return { node: h("div", { class: "vmc-multiple-row" }, label, svg, value), update };
  });
  const node = h("div", { class: "vmc-multiple" }, heading(words[name]), h("div", { class: "vmc-soft vmc-note" }, words[name + "_note"]), grid);
  const total = (place) => parts.reduce((sum, [, sizeOf]) => sum + (sizeOf(place) ?? 0), 0);
  const update = (places, logarithmic) => rows(places, (place) => String(place.name), scaleOf(places.flatMap((place) => [total(place), ...dotsOf(place)]), logarithmic));
  return { node, update };
}

function drawMultiples(words) {
  const charts = [
    multiple(words, "first_byte", [["used", (place) => place.first_byte_ms?.median]], (place) => objects(place.rounds).map((round) => round.first_byte_ms).filter(isNumber), (place) => formatMillis(place.first_byte_ms?.median)),
    multiple(words, "memory", [["private", (place) => place.memory?.private_bytes], ["shared", (place) => place.memory?.shared_bytes]], () => [], (place) => `${formatBytes(place.memory?.private_bytes)} + ${formatBytes(place.memory?.shared_bytes)}`),
    multiple(words, "cpu", [["used", (place) => place.cpu_s]], () => [], (place) => formatCpu(place.cpu_s)),
  ];
  const toggle = h("button", { type: "button", class: "vmc-button", "aria-pressed": "false" }, words.log_scale);
  const node = h("div", { class: "vmc-part", role: "group", "aria-label": words.charts }, h("div", { class: "vmc-multiples" }, ...charts.map((chart) => chart.node)), toggle);
  let latest = [];
  const update = (places) => {
    latest = there(places);
    for (const chart of charts) chart.update(latest, toggle.getAttribute("aria-pressed") === "true");
  };
  toggle.addEventListener("click", () => {
    setAttribute(toggle, "aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    update(latest);
  });
  return { node, update };
}

const namesOf = (places) => JSON.stringify(places.map((place) => String(place.name)));

// A table with a column for each place; `cell(place, row, first)` gives [text, mark, what the mark says].
function drawTable(words, name, cell) {
  const grid = h("table", { class: "vmc-table vmc-compare", "aria-label": words[name] });
  const node = h("div", { class: "vmc-part" }, heading(words[name]), ...(words[name + "_note"] ? [h("div", { class: "vmc-soft" }, words[name + "_note"])] : []), scroller(words[name], grid));
  let columns = "";
  let rows = null;
  const build = (places) => {
    columns = namesOf(places);
    const body = h("tbody");
    grid.replaceChildren(h("thead", {}, h("tr", {}, h("th", { scope: "col" }, words.what), ...places.map((place) => h("th", { scope: "col" }, placeName(words, place))))), body);
    rows = keyedRows(body, ({ label }) => {
      const cells = places.map(() => ({ mark: h("span", { class: "vmc-mark-sign", "aria-hidden": "true" }), means: h("span", { class: "vmc-spoken" }), text: foreign("vmc-figures") }));
      const line = h("tr", {}, h("th", { scope: "row" }, label), ...cells.map((one) => h("td", {}, one.mark, one.means, one.text)));
      const update = (row, now) => now.forEach((place, i) => {
        const [text, mark = "", means = ""] = cell(place, row, now[0]);
        setText(cells[i].text, text);
        setText(cells[i].mark, mark);
        setText(cells[i].means, means);
      });
      return { node: line, update };
    });
  };
  const update = (places, items) => {
    const now = there(places);
    if (rows === null || namesOf(now) !== columns) build(now);
    rows(items, (row) => row.key, now);
  };
  return { node, update };
}

const drawCosts = (words) => drawTable(words, "costs", (place, row) => [row.format(row.value(place), words)]);
// The first namespaces of every kernel have the same numbers: with another kernel they are others all the same.
const drawSees = (words) => drawTable(words, "sees", (place, row, first) => {
  const value = place.sees?.[row.key], elsewhere = row.key.endsWith("_namespace") && place.sees?.boot_id !== first.sees?.boot_id;
  const near = CLOCKS.includes(row.key) && Math.abs(value - first.sees?.[row.key]) < 60;
  const same = place === first || ((near || value === first.sees?.[row.key]) && !elsewhere);
  return [value === null || value === undefined ? "—" : visible(value, 120), same ? "" : "≠ ", same ? "" : words.differs + " "];
});
const drawReaches = (words) => drawTable(words, "reaches", (place, row) => {
  const found = objects(place.reaches).find((one) => one.name === row.key);
  return found ? [`${found.can ? words.can : words.cannot} · ${visible(found.result, 30)}`, found.can ? "● " : "○ "] : ["—"];
});

function drawOutputs(words) {
  const cards = h("div", { class: "vmc-cards", role: "list" });
  const rows = keyedRows(cards, () => {
    const name = h("span", { class: "vmc-strong" }), status = h("span", { class: "vmc-soft" }), text = h("div", { class: "vmc-code vmc-output", role: "region", tabindex: "0" });
    const update = (place) => {
      const output = place.output ?? {}, more = output.cut_bytes ? "\n" + put(words.cut, { size: formatBytes(output.cut_bytes) }) : "";
      setText(name, placeName(words, place));
      setAttribute(text, "aria-label", `${words.output}: ${placeName(words, place)}`);
      setText(status, place.missing ? put(words.missing, { why: visible(place.missing) }) : put(words.status, { status: formatCount(output.status) }));
      setText(text, String([output.out, output.err].filter(Boolean).join("")).split("\n").map((line) => visible(line, 400)).join("\n") + more);
      setHidden(text, Boolean(place.missing));
    };
    return { node: h("div", { class: "vmc-card", role: "listitem" }, h("div", { class: "vmc-card-head" }, name, status), text), update };
  });
  return { node: h("div", { class: "vmc-part" }, heading(words.output), cards), update: (places) => rows(places, (place) => String(place.name)) };
}

function draw({ body, root, words, say, act, replays }) {
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }), running = h("span", { class: "vmc-soft", role: "status" });
  const again = h("button", { type: "button", class: "vmc-button" }, words.again), text = h("div", { class: "vmc-code vmc-output", role: "region", tabindex: "0", "aria-label": words.cell });
  const charts = drawMultiples(words), costs = drawCosts(words), sees = drawSees(words), reaches = drawReaches(words), outputs = drawOutputs(words);
  body.append(h("div", { class: "vmc-head" }, title, running, h("div", { class: "vmc-buttons" }, again)), text, charts.node, costs.node, sees.node, reaches.node, outputs.node);
  setHidden(again, replays);
  again.addEventListener("click", async () => {
    if (again.getAttribute("aria-disabled") === "true") return;
    setAttribute(again, "aria-disabled", "true");
    if ((await act("again")).ok) say(words.done);
    setAttribute(again, "aria-disabled", "false");
  });
  return (view, failure) => {
    const places = objects(view.places);
    setText(title, put(words.compare, { count: formatCount(places.length) }));
    setAttribute(root, "aria-label", title.textContent);
    setText(running, view.running ? put(words.running, { phase: visible(view.running, 80) }) : "");
    setText(text, String(view.text ?? "").split("\n").map((line) => visible(line, 400)).join("\n"));
    charts.update(places);
    costs.update(places, MEASURES.map(([key, value, format]) => ({ key, label: words[key], value, format })));
    sees.update(places, Object.entries(words.facts).map(([key, label]) => ({ key, label })));
    reaches.update(places, Object.entries(words.attempts).map(([key, label]) => ({ key, label })));
    outputs.update(places);
    if (failure) setAttribute(again, "aria-disabled", "true");
  };
}

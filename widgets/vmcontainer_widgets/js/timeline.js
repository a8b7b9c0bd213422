// The timeline: the last starts under each other on one axis; who did what, and when. A start is a list box whose
// options are its steps; the one that is open shows its calls, their arguments, and the line of our code.

const WHO = ["notebook", "agent", "process", "machine", "guest"];
const TICKS = 6;
const AXES = ["linear", "log", "own"];

const formatMs = (ms) => (!isNumber(ms) ? "—" : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`);
const stepName = (words, step) => (step.by === "process" && step.name !== "exec" ? visible(step.name, 60) : lookup(words.phases, step.name) ?? visible(step.name, 60));
const whoName = (words, who) => lookup(words.by_names, who) ?? visible(who, 20);
const startTitle = (words, start) => `${lookup(words.what, start.what) ?? visible(start.what, 20)} ${visible(start.name, 60)}`.trim();
const inTime = (phases) => objects(phases).filter((one) => isNumber(one.begin_ms) && isNumber(one.ms)).sort((a, b) => a.begin_ms - b.begin_ms);

// Where a moment lies on the axis, from 0 to 1. The logarithmic axis begins at a hundredth of a millisecond.
function scaleOf(longest_ms, logarithmic) {
  const top = Math.max(longest_ms, 0.01);
  const place = logarithmic ? (ms) => Math.log10(1 + Math.max(0, ms) * 100) / Math.log10(1 + top * 100) : (ms) => Math.max(0, ms) / top;
  return { place: (ms) => Math.min(1, place(ms)), ticks: logarithmic ? decades(top) : steps(top) };
}

function steps(top) {
  const raw = top / TICKS, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= raw);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
}

function decades(top) {
  const found = [0];
  for (let ms = 0.1; ms <= top; ms *= 10) found.push(ms);
  return found;
}

function axisOf() {
  const node = h("div", { class: "vmc-time-axis", "aria-hidden": "true" });
  const marks = keyedRows(node, () => {
    const mark = h("span", { class: "vmc-time-tick" });
    return { node: mark, update: (ms, scale) => (setText(mark, ms >= 1000 ? `${+(ms / 1000).toFixed(2)} s` : `${+ms.toFixed(2)} ms`), setAttribute(mark, "style", `left: ${(scale.place(ms) * 100).toFixed(2)}%`)) };
  });
  return { node, update: (scale) => marks(scale.ticks, String, scale) };
}

// What a step called, and where our code does it.
function detail(words) {
  const node = h("div", { class: "vmc-time-detail", hidden: "" });
  const pair = (label, child) => [h("dt", { class: "vmc-soft" }, label), h("dd", {}, child)];
  const update = (step) => {
    setHidden(node, !step);
    const shown = JSON.stringify(step ?? null);
    if (node.shownStep === shown) return;
    node.shownStep = shown;
    if (!step) return void node.replaceChildren();
    const title = h("div", { class: "vmc-strong" }, h("bdi", {}, put(words.step_told, { name: stepName(words, step), who: whoName(words, step.by), begin: formatMs(step.begin_ms), length: formatMs(step.ms) })));
    if (!step.code) return void node.replaceChildren(title, h("div", { class: "vmc-soft" }, words.opening));
    const calls = objects(step.calls).map((one) => h("li", { class: "vmc-mono vmc-foreign" }, h("span", { class: "vmc-strong" }, visible(one.call, 200)), list(one.arguments).length ? `(${list(one.arguments).map((word) => visible(word)).join(", ")})` : ""));
    const facts = h("dl", { class: "vmc-time-facts" });
    if (step.why) facts.append(...pair(words.why, h("bdi", {}, visible(step.why, 600))));
    if (step.manual) facts.append(...pair(words.manual, h("bdi", {}, visible(step.manual, 200))));
    const code = step.code, place = [visible(code.file, 200), code.line || ""].filter(Boolean).join(":");
    facts.append(...pair(words.code, h("span", { class: "vmc-mono vmc-time-place" }, h("bdi", {}, `${place} ${visible(code.function, 100)}`))));
    if (code.text) facts.append(h("dd", { class: "vmc-code" }, visible(code.text)));
    facts.append(...pair(words.measured, put(words.clock_of, { who: whoName(words, step.name === "exec" && step.by === "process" ? "agent" : step.by) })));
    const told = calls.length ? h("ul", { class: "vmc-time-calls", tabindex: "0", "aria-label": words.calls }, ...calls) : h("div", { class: "vmc-soft" }, words.no_calls);
    node.replaceChildren(title, told, facts);
  };
  return { node, update };
}

// The steps of one start as bars, a lane for each who has some. One stop for Tab; arrow keys move, Enter opens.
function lanes(words, open, say) {
  const prefix = "vmct" + Math.random().toString(36).slice(2);
  const node = h("div", { class: "vmc-time-lanes", role: "listbox", tabindex: "0" });
  let phases = [], active = 0, bars = [];
  const ids = () => phases.map((_, i) => `${prefix}-${i}`);
  const rows = keyedRows(node, (lane) => {
    const label = h("div", { class: "vmc-time-who", "aria-hidden": "true" }, whoName(words, lane.who)), track = h("div", { class: "vmc-time-track" });
    const items = keyedRows(track, () => {
      const bar = h("div", { class: "vmc-time-bar", role: "option" });
      return { node: bar, update: (item, scale, openAt) => showBar(bar, item, scale, openAt) };
    });
    const group = h("div", { class: "vmc-time-lane", role: "group", "aria-label": whoName(words, lane.who) }, label, track);
    return { node: group, update: (now, scale, openAt) => items(now.items, (item) => String(item.index), scale, openAt) };
  });
  const showBar = (bar, { step, index }, scale, openAt) => {
    const left = scale.place(step.begin_ms), right = scale.place(step.begin_ms + step.ms);
    bars[index] = bar;
    bar.stepIndex = index;
    setAttribute(bar, "id", `${prefix}-${index}`);
    setAttribute(bar, "style", `left: ${(left * 100).toFixed(3)}%; width: ${((right - left) * 100).toFixed(3)}%`);
    setAttribute(bar, "data-who", step.by);
    setAttribute(bar, "data-odd", String(index % 2));
    setAttribute(bar, "data-active", String(index === active));
    setAttribute(bar, "aria-selected", String(index === openAt));
    const told = put(words.step_told, { name: stepName(words, step), who: whoName(words, step.by), begin: formatMs(step.begin_ms), length: formatMs(step.ms) });
    setAttribute(bar, "aria-label", told);
    setAttribute(bar, "title", told);
    setText(bar, right - left > 0.09 ? stepName(words, step) : "");
  };
  const move = (to) => {
    if (!phases.length) return;
    active = Math.max(0, Math.min(phases.length - 1, to));
    bars.forEach((bar, index) => bar && setAttribute(bar, "data-active", String(index === active)));
    setAttribute(node, "aria-activedescendant", ids()[active]);
  };
  const toLane = (by) => {
    const order = WHO.filter((who) => phases.some((one) => one.by === who)), at = order.indexOf(phases[active].by) + by;
    if (at < 0 || at >= order.length) return;
    const near = phases.map((one, index) => ({ one, index })).filter(({ one }) => one.by === order[at]);
    move(near.reduce((best, now) => (Math.abs(now.one.begin_ms - phases[active].begin_ms) < Math.abs(best.one.begin_ms - phases[active].begin_ms) ? now : best)).index);
  };
  node.addEventListener("keydown", (event) => {
    const keys = { ArrowRight: () => move(active + 1), ArrowLeft: () => move(active - 1), Home: () => move(0), End: () => move(phases.length - 1), ArrowDown: () => toLane(1), ArrowUp: () => toLane(-1), Enter: () => open(active), " ": () => open(active) };
    if (!Object.hasOwn(keys, event.key) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });
  node.addEventListener("focus", () => move(active));
  node.addEventListener("click", (event) => {
    const index = event.target.closest(".vmc-time-bar")?.stepIndex;
    if (index !== undefined) move(index), open(index);
  });
  const update = (found, scale, openAt, label) => {
    phases = found;
    bars = [];
    setAttribute(node, "aria-label", label);
    const lanesNow = WHO.map((who) => ({ who, items: phases.map((step, index) => ({ step, index })).filter(({ step }) => step.by === who) }));
    rows(lanesNow.filter((lane) => lane.items.length), (lane) => lane.who, scale, openAt);
  };
  return { node, update };
}

function stepTable(words) {
  const columns = [[words.step], [words.by], [words.begins, "vmc-number"], [words.takes, "vmc-number"]];
  const { node, body } = table(words.as_table, columns);
  const rows = keyedRows(body, () => {
    const name = h("bdi", {}), cells = [h("th", { scope: "row" }, name), h("td"), h("td", { class: "vmc-number" }), h("td", { class: "vmc-number" })];
    const update = (step) => {
      setText(name, stepName(words, step));
      setText(cells[1], whoName(words, step.by));
      setText(cells[2], formatMs(step.begin_ms));
      setText(cells[3], formatMs(step.ms));
    };
    return { node: h("tr", {}, ...cells), update };
  });
  const fold = h("details", { class: "vmc-fold" }, h("summary", {}, words.as_table), scroller(words.as_table, node));
  let latest = [];
  const show = () => fold.open && rows(latest.map((step, index) => ({ ...step, index })), (step) => String(step.index));
  fold.addEventListener("toggle", show);
  return { node: fold, update: (phases) => ((latest = phases), show()) };
}

function startCard(words, stage) {
  const title = h("span", { class: "vmc-strong" }), name = foreign("vmc-strong"), way = h("span", { class: "vmc-pill", "data-tone": "off" }), total = h("span", { class: "vmc-figures" }), where = foreign("vmc-soft");
  const head = h("div", { class: "vmc-card-head" }, title, name, way, where, total);
  let number = 0, open = null;
  const choose = (part) => (index) => {
    open = open && open.part === part && open.index === index ? null : { part, index };
    stage.want(number, open !== null || fold.open);
    stage.again();
  };
  const own = lanes(words, choose("own"), stage.say), before = lanes(words, choose("before"), stage.say);
  const shown = detail(words), grid = stepTable(words), axis = axisOf();
  const summary = h("summary", {}), fold = h("details", { class: "vmc-fold" }, summary, before.node);
  fold.addEventListener("toggle", () => (stage.want(number, open !== null || fold.open), stage.again()));
  const node = h("article", { class: "vmc-card vmc-time-start" }, head, axis.node, own.node, fold, shown.node, grid.node);
  const update = (start, common) => {
    const scale = common ?? scaleOf(start.total_ms, false);
    number = start.number;
    setHidden(axis.node, common !== null);
    if (common === null) axis.update(scale);
    const phases = inTime(start.phases), earlier = objects(start.earlier)[0], label = startTitle(words, start);
    setText(title, lookup(words.what, start.what) ?? visible(start.what, 20));
    setText(name, visible(start.name, 60));
    setText(way, lookup(words.ways, start.way) ?? visible(start.way, 30));
    setText(where, start.node === "host" ? "" : put(words.on_node, { node: visible(start.node, 60) }));
    setText(total, put(words.together, { total: formatMs(start.total_ms) }));
    setAttribute(node, "aria-label", `${label}, ${way.shownText}, ${total.shownText}`);
    own.update(phases, scale, open?.part === "own" ? open.index : -1, put(words.start_steps, { number: start.number, title: label }));
    grid.update(phases);
    setHidden(fold, !earlier);
    const made = inTime(earlier?.phases);
    if (earlier) {
      setText(summary, put(words.made_before, { way: lookup(words.ways, earlier.way) ?? visible(earlier.way, 30), total: formatMs(earlier.total_ms) }));
      if (fold.open) before.update(made, scaleOf(earlier.total_ms, stage.axis() === "log"), open?.part === "before" ? open.index : -1, summary.shownText);
    }
    shown.update(open === null ? null : (open.part === "own" ? phases : made)[open.index] ?? null);
  };
  return { node, update };
}

function draw({ body, root, words, say, again, want, memory }) {
  const wanted = memory.get("timeline") ?? new Set();
  memory.set("timeline", wanted);
  const choice = h("select", { class: "vmc-button" }, ...AXES.map((name) => h("option", { value: name }, words.axes[name]))), empty = h("div", { class: "vmc-soft" }, words.no_starts), cut = h("div", { class: "vmc-soft" });
  const axis = axisOf(), cards = h("div", { class: "vmc-time-starts" }), hint = h("div", { class: "vmc-soft" }, words.timeline_hint);
  const top = h("div", { class: "vmc-head" }, h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }, words.timeline), h("label", {}, h("span", { class: "vmc-soft" }, `${words.axis} `), choice));
  const stage = {
    say, again, axis: () => memory.get("axis") ?? (memory.get("apart") ? "log" : "linear"),
    want: (number, is) => (wanted[is ? "add" : "delete"](`start-${number}`), want([...wanted])),
  };
  const rows = keyedRows(cards, () => startCard(words, stage));
  choice.addEventListener("change", () => (memory.set("axis", choice.value), again()));
  body.append(top, hint, empty, h("div", { class: "vmc-time" }, axis.node, cards), cut);
  setAttribute(root, "aria-label", words.timeline);
  let spoken = null;
  return (view) => {
    const starts = objects(view.starts).slice().reverse(), known = starts.map((start) => start.number);
    const totals = starts.map((start) => start.total_ms).filter(isNumber), longest = Math.max(0.01, ...totals);
    memory.set("apart", longest > 20 * Math.min(...totals));
    const common = stage.axis() === "own" ? null : scaleOf(longest, stage.axis() === "log");
    for (const one of wanted) if (!known.includes(Number(one.slice("start-".length)))) wanted.delete(one);
    if (choice.value !== stage.axis()) choice.value = stage.axis();
    setHidden(empty, starts.length > 0);
    setHidden(hint, starts.length === 0);
    setHidden(axis.node, common === null);
    if (common) axis.update(common);
    rows(starts, (start) => String(start.number), common);
    const others = (view.starts_total ?? starts.length) - starts.length;
    setText(cut, others > 0 ? put(words.not_shown, { count: others }) : "");
    if (spoken !== null && starts.length && starts[0].number > spoken) say(`${startTitle(words, starts[0])}: ${put(words.together, { total: formatMs(starts[0].total_ms) })}`);
    spoken = starts[0]?.number ?? 0;
  };
}

// What each container uses against its limits, with the moments at which a limit struck marked on the history.

const limited = (words, limit, text) => (isNumber(limit) ? `${words.of} ${text}` : words.no_limit);
const warned = (label, count, text) => (isNumber(count) && count > 0 ? `⚠ ${label} ${text}` : "");
const sum = (rows, name) => rows.reduce((total, row) => total + (isNumber(row[name]) ? row[name] : 0), 0);

// `events` are samples too: where one is above zero, the limit struck between it and the sample before.
function markedChart(height) {
  const picture = chart(height), path = s("path", { class: "vmc-event", "vector-effect": "non-scaling-stroke" });
  picture.node.append(path);
  const update = (samples, top, limit, events) => {
    picture.update(samples, top, limit);
    const marks = events.map((value, i) => (value > 0 ? `M${HISTORY - events.length + i} 0V${height}` : "")).join("");
    setAttribute(path, "d", marks || "M0 0");
  };
  return { node: picture.node, update };
}

function gauge(label) {
  const picture = markedChart(40), figure = h("span", { class: "vmc-figures vmc-strong" }), limit = h("span", { class: "vmc-soft" });
  const alarm = h("div", { class: "vmc-alarm" }), more = h("div", { class: "vmc-soft vmc-figures vmc-more" });
  const node = h("div", { class: "vmc-gauge", role: "group", "aria-label": label }, h("div", { class: "vmc-soft" }, label), picture.node, h("div", {}, figure, " ", limit), more, alarm);
  const update = ({ samples, value, limitValue, text, limitText = "", alarmText = "", moreText = "", events = [] }) => {
    const top = isNumber(limitValue) ? limitValue * 1.15 : 1.2 * Math.max(1e-9, ...samples.filter(isNumber));
    picture.update(samples, Math.max(top, isNumber(value) ? value : 0), limitValue, events);
    setText(figure, text);
    setText(limit, limitText);
    setText(more, moreText);
    setText(alarm, alarmText);
    setAttribute(node, "data-near", String(isNumber(limitValue) && isNumber(value) && value >= 0.9 * limitValue));
    setAttribute(node, "data-events", String(events.filter((one) => one > 0).length));
  };
  return { node, update };
}

const METERS = {
  memory: (now, key, words, history) => {
    const used = now.memory ?? {};
    const details = [[words.peak, used.peak_bytes], [words.anonymous, used.anonymous_bytes], [words.cache, used.cache_bytes]];
    return {
      samples: history.level(`${key} memory`, used.usage_bytes), value: used.usage_bytes, limitValue: used.limit_bytes,
      text: formatBytes(used.usage_bytes), limitText: limited(words, used.limit_bytes, formatBytes(used.limit_bytes)),
      moreText: details.filter(([, value]) => isNumber(value)).map(([name, value]) => `${name} ${formatBytes(value)}`).join(" · "),
      events: history.counter(`${key} oom`, used.oom_kills),
      alarmText: warned(words.oom_kills, used.oom_kills, formatCount(used.oom_kills)),
    };
  },
  cpu: (now, key, words, history) => {
    const ran = now.cpu ?? {}, speeds = history.counter(`${key} cpu`, ran.usage_s), speed = speeds[speeds.length - 1] ?? null;
    const shares = [[words.user_time, ran.user_s], [words.system_time, ran.system_s]];
    return {
      samples: speeds, value: speed, limitValue: ran.limit_cpus,
      text: `${formatPercent(speed)} · ${formatSeconds(ran.usage_s)}`, limitText: limited(words, ran.limit_cpus, `${ran.limit_cpus} CPU`),
      moreText: shares.filter(([, value]) => isNumber(value)).map(([name, value]) => `${name} ${formatSeconds(value)}`).join(" · "),
      events: history.counter(`${key} throttled`, ran.throttled_periods),
      alarmText: warned(words.throttled, ran.throttled_s, formatSeconds(ran.throttled_s)),
    };
  },
  pids: (now, key, words, history) => {
    const count = now.pids ?? {};
    return {
      samples: history.level(`${key} pids`, count.current), value: count.current, limitValue: count.limit,
      text: formatCount(count.current), limitText: limited(words, count.limit, formatCount(count.limit)),
      events: history.counter(`${key} denied`, count.denied),
      alarmText: warned(words.denied, count.denied, formatCount(count.denied)),
    };
  },
  io: (now, key, words, history) => {
    const rows = objects(now.io), read = sum(rows, "read_bytes"), written = sum(rows, "written_bytes");
    const speeds = history.counter(`${key} io`, rows.length ? read + written : null), speed = speeds[speeds.length - 1] ?? null;
    const limits = rows.map((row) => row.write_limit_bytes_per_s ?? row.read_limit_bytes_per_s).filter(isNumber), limit = limits[0] ?? null;
    return {
      samples: speeds, value: speed, limitValue: limit,
      text: isNumber(speed) ? `${formatBytes(speed)}/s` : "—", limitText: limited(words, limit, `${formatBytes(limit)}/s`),
      moreText: `${words.read} ${formatBytes(read)} · ${words.written} ${formatBytes(written)}`,
    };
  },
  pressure: (now, key, words, history) => {
    const found = now.pressure ?? {}, waits = pressureTexts(found, words), worst = Math.max(0, ...entries(found).map(([, one]) => one?.some_percent ?? 0));
    return { samples: history.level(`${key} pressure`, worst), value: worst, limitValue: null, text: `${worst.toFixed(1)} %`, moreText: waits };
  },
};

// Which share of the last ten seconds somebody waited (PSI), for the processor, for memory, for disks.
const pressureTexts = (pressure, words) => entries(pressure).filter(([name, one]) => lookup(words.waits, name) && isNumber(one?.some_percent)).map(([name, one]) => `${words.waits[name]} ${one.some_percent.toFixed(1)} %`).join(" · ");

function containerCard(words, history) {
  const name = foreign("vmc-strong"), image = foreign("vmc-soft"), status = h("span", { class: "vmc-pill" });
  const gauges = Object.fromEntries(Object.keys(METERS).map((kind) => [kind, gauge(words["chart_" + kind])]));
  const head = h("div", { class: "vmc-card-head" }, name, status, image);
  const node = h("div", { class: "vmc-card", role: "listitem" }, head, h("div", { class: "vmc-gauges" }, ...Object.values(gauges).map((one) => one.node)));
  const update = (now) => {
    const key = String(now.id ?? now.name);
    setText(name, visible(now.name, 60));
    setText(image, visible(now.image, 60));
    setText(status, lookup(words.status, now.status) ?? visible(now.status, 30));
    setAttribute(status, "data-tone", now.status === "running" ? "good" : "off");
    setHidden(gauges.io.node, objects(now.io).length === 0);
    setHidden(gauges.pressure.node, entries(now.pressure).length === 0);
    for (const [kind, one] of Object.entries(gauges)) if (!one.node.hidden) one.update(METERS[kind](now, key, words, history));
  };
  return { node, update };
}

function drawContainers(words, history) {
  const cards = h("div", { class: "vmc-cards", role: "list" }), empty = h("div", { class: "vmc-soft" }, words.no_containers);
  const missing = reasons(words);
  const rows = keyedRows(cards, () => containerCard(words, history));
  const update = (containers, why) => {
    setHidden(cards, containers.length === 0);
    setHidden(empty, containers.length > 0);
    rows(containers, (container) => String(container.id ?? container.name));
    missing.update(why);
  };
  return { node: h("div", {}, cards, empty, missing.node), update };
}

// The latest limits that struck, in words: for who cannot see the marks.
function strikes(words) {
  const before = new Map();
  return (containers) => {
    const told = [];
    for (const one of containers) {
      const counts = { oom_kills: one.memory?.oom_kills, denied: one.pids?.denied };
      for (const [kind, count] of Object.entries(counts)) {
        const key = `${one.id} ${kind}`, last = before.get(key);
        if (isNumber(last) && isNumber(count) && count > last) told.push(put(words["struck_" + kind], { name: visible(one.name, 60), count: count - last }));
        before.set(key, count);
      }
    }
    return told.join(" ");
  };
}

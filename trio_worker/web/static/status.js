// Shows what /status/events sends. Every text goes in as text: a worker's name may hold anything.
"use strict";

(() => {
  const SILENCE = 8000; // ms without an event, of which there is one in 3 s, until the connection is held for lost
  const AGAIN = 5000; // ms until the next try where the browser makes none by itself
  const MINUTES_WIDE = 4; // of the 240 units that a chart is wide
  const SVG = "http://www.w3.org/2000/svg";

  const byId = (id) => document.getElementById(id);
  let source = null;
  let heardAt = 0;
  let triedAt = 0;
  let lostAt = null; // a Date while the connection is lost
  let ahead = 0; // ms by which the worker's clock is ahead of ours
  let shown = null;

  // --- Words -----------------------------------------------------------------------------------------

  function duration(seconds) {
    if (seconds === null) return "–";
    if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 119.5) return `${Math.round(seconds)} s`;
    if (seconds < 7170) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172000) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} d`;
  }

  function since(moment) { // in whole seconds: it is counted up while one looks
    const seconds = Math.max(0, Math.floor((now() - moment * 1000) / 1000));
    return seconds < 120 ? `${seconds} s` : duration(seconds);
  }

  const now = () => (lostAt === null ? Date.now() : Math.max(heardAt, 0)) + ahead;
  const clock = (moment) => new Date(moment * 1000).toLocaleTimeString();
  const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
  const list = (texts) => texts.filter((text) => text !== "").join(", ");

  function put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function make(name, text, className) {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // --- Parts of the page -----------------------------------------------------------------------------

  function showState(state) {
    byId("state").dataset.level = state.level;
    put(byId("word"), state.word);
    put(byId("text"), state.text);
  }

  function showAbout(is) {
    const here = is.consumers.here === is.consumers.all ? "" : `${is.consumers.here} of ${is.consumers.all} consumers are in ${is.processes ? "these processes" : "this process"}`;
    put(byId("worker"), is.worker);
    document.title = `${is.worker}: ${is.state.word}`;
    const texts = [is.handler, is.webbuddy, `up since ${new Date(is.started * 1000).toLocaleString()}`, is.processes ? `processes ${is.processes.join(", ")}` : "", here];
    put(byId("about"), texts.filter((text) => text !== "").join(" · "));
  }

  function showPlaces(is) {
    const places = byId("places");
    while (places.children.length > is.places.length) places.lastElementChild.remove();
    while (places.children.length < is.places.length) {
      const item = make("li");
      item.append(make("b"), make("span"));
      places.append(item);
    }
    is.places.forEach(([moment, query, attempt, process], index) => {
      const item = places.children[index];
      const busy = (query ?? null) !== null;
      item.className = busy ? "busy" : "free";
      put(item.firstElementChild, busy ? `#${query}` : "free");
      put(item.lastElementChild, (attempt > 1 ? `try ${attempt}, ` : "") + since(moment) + (process === undefined ? "" : `\nprocess ${process}`));
    });
    const more = is.consumers.here - is.places.length;
    put(byId("more-places"), more > 0 ? `and ${more} more: ${is.consumers.busy} of ${is.consumers.here} are busy` : "");
  }

  function facts(is) {
    const held = is.held;
    const parts = ["at work", "waiting", "put aside", "to be reported"].map((state) => (held[state] ? `${held[state]} ${state}` : ""));
    parts.push(held.reported ? `${held.reported} reported, but for the log` : "");
    const named = held.dead_ids.map((id) => `#${id}`).join(", ");
    const more = held.dead > held.dead_ids.length ? ", …" : "";
    const lost = [is.lost.claims ? `${count(is.lost.claims, "answer", "answers")} lost and looked for` : "", is.lost.found ? `${count(is.lost.found, "query", "queries")} found` : ""];
    const ended = Object.entries(is.totals).map(([word, number]) => (number ? `${number} ${word}` : ""));
    const last = is.pushes.last === null ? "" : `; the last one came ${since(is.pushes.last)} ago`;
    const rows = [
      ["Pushes", is.pushes.text + last, is.pushes.level],
      ["Held", list(parts) || "nothing", "good"],
      ["Ended since the start", list(ended) || "nothing", "good"],
      ["Dead letters", held.dead ? `${held.dead} (${named}${more}): see trio-worker outbox` : "none", held.dead ? "fair" : "good"],
      ["Lost claims", list(lost) || "none", is.lost.claims ? "fair" : "good"],
    ];
    if (is.left_behind) {
      rows.push(["Left behind", `${count(is.left_behind, "handler", "handlers")} could not be stopped and still ${is.left_behind === 1 ? "runs" : "run"}`, "fair"]);
    }
    return rows;
  }

  function showFacts(is) {
    const rows = facts(is);
    const box = byId("facts");
    while (box.children.length > rows.length * 2) box.lastElementChild.remove();
    while (box.children.length < rows.length * 2) box.append(make("dt"), make("dd"));
    rows.forEach(([name, text, level], index) => {
      put(box.children[index * 2], name);
      put(box.children[index * 2 + 1], text);
      box.children[index * 2 + 1].className = level;
    });
  }

  function showQueries(queries) {
    const table = byId("queries");
    const body = table.tBodies[0];
    const listed = new Set(queries.map(([number]) => String(number)));
    for (const row of [...body.rows]) {
      if (listed.has(row.dataset.number)) continue;
      delete seen[row.dataset.number];
      row.remove();
    }
    let next = body.firstElementChild; // what stands where the next one belongs
    for (const [number, query, attempt, found, pickUp, run, outcome, kind, ended, process] of queries) {
      if (number in seen && seen[number] === next) {
        next = next.nextElementSibling;
        continue;
      }
      if (number in seen) {
        body.insertBefore(seen[number], next);
        continue;
      }
      const row = make("tr");
      row.dataset.number = number;
      row.dataset.outcome = outcome;
      const why = kind ? `${outcome}: ${kind.replaceAll("_", " ")}` : outcome;
      row.append(make("td", `#${query}`), make("td", attempt), make("td", found), make("td", duration(pickUp)));
      row.append(make("td", duration(run)), make("td", why), make("td", clock(ended), "ended"));
      if (process !== undefined) row.append(make("td", process, "process"));
      seen[number] = row;
      body.insertBefore(row, next);
    }
    byId("process").hidden = queries.every((query) => query.length < 10);
    table.hidden = queries.length === 0;
    byId("no-queries").hidden = queries.length > 0;
  }

  let seen = {}; // the rows in the table, by the numbers of their attempts

  // --- Charts ----------------------------------------------------------------------------------------

  function bar(minutesAgo, minutes, from, to, most, className) {
    const rect = document.createElementNS(SVG, "rect");
    const scale = 62 / most;
    const height = to > from ? Math.max(1.5, (to - from) * scale) : 0;
    rect.setAttribute("class", `bar ${className}`);
    rect.setAttribute("x", (minutes - 1 - minutesAgo) * MINUTES_WIDE + 0.5);
    rect.setAttribute("width", MINUTES_WIDE - 1);
    rect.setAttribute("y", 64 - from * scale - height);
    rect.setAttribute("height", height);
    return rect;
  }

  function draw(id, caption, bars) {
    const figure = byId(id);
    const svg = figure.querySelector("svg");
    put(figure.querySelector("figcaption"), caption);
    svg.setAttribute("aria-label", `${caption}. A bar for each of the last 60 minutes.`);
    svg.replaceChildren(...bars);
  }

  function showThroughput({ minutes, of }) {
    const most = Math.max(1, ...of.map(([, done, failed, other]) => done + failed + other));
    const bars = of.flatMap(([ago, done, failed, other]) => [
      bar(ago, minutes, 0, done, most, "done"),
      bar(ago, minutes, done, done + failed, most, "failed"),
      bar(ago, minutes, done + failed, done + failed + other, most, "other"),
    ]);
    const sum = (index) => of.reduce((total, minute) => total + minute[index], 0);
    const texts = [`${sum(1)} done`, `${sum(2)} failed`, sum(3) ? `${sum(3)} put back or aside` : ""];
    const hasEnded = sum(1) + sum(2) + sum(3) > 0;
    draw("throughput", `Queries a minute: ${hasEnded ? `at most ${most}; ${list(texts)}` : "none yet"}`, bars);
  }

  function showDurations(id, name, { minutes, of }, at) {
    const some = of.filter((minute) => minute[at] > 0);
    const number = some.reduce((total, minute) => total + minute[at], 0);
    const mean = some.reduce((total, minute) => total + minute[at] * minute[at + 1], 0) / number;
    const most = Math.max(0, ...some.map((minute) => minute[at + 2]));
    const bars = some.flatMap((minute) => [
      bar(minute[0], minutes, 0, minute[at + 2], most || 1, "other"),
      bar(minute[0], minutes, 0, minute[at + 1], most || 1, "done"),
    ]);
    draw(id, number ? `${name}: ${duration(mean)} on average, at most ${duration(most)}` : `${name}: none yet`, bars);
  }

  // --- All of it -------------------------------------------------------------------------------------

  function show(is) {
    showState(is.state);
    byId("details").hidden = is.places === undefined;
    if (is.places === undefined) return; // the service has not begun
    if (shown === null || shown.process !== is.process) {
      byId("queries").tBodies[0].replaceChildren();
      seen = {};
    }
    shown = is;
    showAbout(is);
    showPlaces(is);
    showFacts(is);
    showQueries(is.queries);
    showThroughput(is.hour);
    showDurations("pick-up", "Waited to be picked up", is.hour, 4 + 3);
    showDurations("run-time", "Ran", is.hour, 4);
  }

  // --- The connection --------------------------------------------------------------------------------

  function heard(workersNow) {
    heardAt = Date.now();
    ahead = workersNow * 1000 - heardAt;
    if (lostAt !== null || byId("connection").textContent !== "") {
      lostAt = null;
      document.body.classList.remove("gone");
      put(byId("connection"), "");
    }
  }

  function lost(why) {
    if (lostAt === null) lostAt = new Date();
    document.body.classList.add("gone");
    put(byId("connection"), why ?? `No connection to the worker since ${lostAt.toLocaleTimeString()}. What you see is from before; trying again.`);
  }

  function disconnect() {
    if (source !== null) source.close();
    source = null;
  }

  function connect() {
    disconnect();
    triedAt = Date.now();
    let isFull = false;
    const mine = new EventSource("status/events");
    source = mine;
    mine.addEventListener("snapshot", (event) => {
      const sent = JSON.parse(event.data);
      isFull = false;
      heard(sent.now);
      show(sent.is);
    });
    mine.addEventListener("beat", (event) => heard(Number(event.data)));
    mine.addEventListener("full", (event) => {
      isFull = true;
      lost(`${event.data} others look at this page already. Trying again.`);
    });
    mine.addEventListener("error", () => {
      triedAt = Date.now();
      if (!isFull && mine === source) lost();
    });
  }

  function everySecond() {
    if (document.hidden) return;
    const dead = source === null || source.readyState === EventSource.CLOSED;
    const silent = Date.now() - Math.max(heardAt, triedAt) > SILENCE;
    if (silent && !dead && source.readyState === EventSource.OPEN) lost();
    if ((dead || silent) && Date.now() - triedAt > AGAIN) connect();
    if (shown !== null && lostAt === null) {
      showPlaces(shown);
      showFacts(shown);
    }
  }

  // A page that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  setInterval(everySecond, 1000);
  if (!document.hidden) connect();
})();

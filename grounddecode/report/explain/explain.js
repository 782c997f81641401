"use strict";
// Everything shown is put in as text (textContent) or drawn on a canvas: what a model says is never read as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = id => document.getElementById(id);
  const all = (selector, within) => [...(within || document).querySelectorAll(selector)];
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const columns = all("article.answer").map(article => all("button.word", article));
  const state = { answer: 0, word: 0, kind: "saliency", scale: "own" };

  // -- heat maps ------------------------------------------------------------------------------------------------------
  const levels = grid => {
    if (!grid.levels) {
      const text = atob(grid.bytes);
      grid.levels = Float32Array.from(text, sign => sign.charCodeAt(0) / 255 * grid.peak);
    }
    return grid.levels;
  };
  const mapsOf = (answer, kind, picture) =>
    data.told[answer].words.map(word => word.maps[kind][picture]).filter(Boolean);
  const means = new Map();
  const meanOf = (answer, kind, picture) => {
    const key = [answer, kind, picture].join();
    if (!means.has(key)) {
      const maps = mapsOf(answer, kind, picture).map(levels);
      const mean = new Float32Array(maps[0].length);
      for (const map of maps) map.forEach((value, at) => { mean[at] += value / maps.length; });
      means.set(key, mean);
    }
    return means.get(key);
  };
  const scaled = (answer, kind, picture, grid) => {
    let values = levels(grid), peak = grid.peak;
    if (state.scale === "all") peak = Math.max(...mapsOf(answer, kind, picture).map(map => map.peak));
    if (state.scale === "more") {
      const mean = meanOf(answer, kind, picture);
      values = values.map((value, at) => Math.max(0, value - mean[at]));
      peak = values.reduce((most, value) => Math.max(most, value), 0);
    }
    return peak > 0 ? values.map(value => value / peak) : values;
  };
  const colour = level => data.ramp[Math.min(data.ramp.length - 1, Math.round(level * (data.ramp.length - 1)))];
  const paint = (canvas, grid, values, opacity) => {
    canvas.width = grid.columns;
    canvas.height = grid.rows;
    const pen = canvas.getContext("2d"), image = pen.createImageData(grid.columns, grid.rows);
    values.forEach((value, at) => {
      const [red, green, blue] = colour(value);
      image.data.set([red, green, blue, Math.round(255 * opacity(value))], 4 * at);
    });
    pen.putImageData(image, 0, 0);
  };
  const drawMaps = (answer, word) => {
    for (const canvas of all("canvas[data-picture]")) {
      const picture = Number(canvas.dataset.picture);
      const grid = state.kind === "none" ? null : word.maps[state.kind][picture];
      if (!grid) { canvas.width = canvas.height = 1; continue; }
      paint(canvas, grid, scaled(answer, state.kind, picture, grid), value => 0.3 + 0.5 * value);
    }
  };

  // -- the chosen word ------------------------------------------------------------------------------------------------
  const tell = word => {
    const maps = word.maps[state.kind] || [];
    const missing = maps.length > 0 && maps.every(map => map === null);
    const seen = maps.reduce((sum, map) => sum + (map ? map.total : 0), 0);
    const parts = {
      attention: `${percent(seen)} of the attention lies on the picture.`,
      saliency: `It rests ${percent(word.grounding)} on the picture.`,
      none: `It rests ${percent(word.grounding)} on the picture.`,
    };
    const risk = word.risk === null ? "" : ` Chance that it is invented: ${word.risk < 0.01 ? "under 1 %" : percent(word.risk)}.`;
    const there = word.real === null ? "" : word.real ? " It is there." : " It is not there.";
    const lost = missing ? " The pieces of this model's picture form no grid: there is no heat map." : "";
    const about = by("about");
    about.replaceChildren(make("b", `“${word.text}”`), ` ${parts[state.kind]}${risk}${there}${lost}`);
  };
  const cell = (chance, before) => {
    const told = () => chance < 0.00005 ? "<0.01 %" : percent(chance, chance < 0.1 ? 2 : 1);
    const made = make("td", chance === null ? "~0" : chance === 0 ? "cut off" : told());
    const moved = 100 * ((chance || 0) - (before || 0));
    if (before !== undefined && Math.abs(moved) >= 0.05)
      made.append(make("small", `${moved > 0 ? "+" : "−"}${Math.abs(moved).toFixed(1)}`, moved > 0 ? "up" : "fall"));
    return made;
  };
  const drawCandidates = word => {
    const { stages, candidates, moved } = word.choice, table = by("candidates");
    const judged = candidates.some(one => one.remarks.length);
    const head = make("tr");
    for (const name of ["token", ...stages.map(stage => stage.replace(/\.second$/, ": second look")), ...(judged ? ["judged"] : [])])
      head.append(make("th", name, name === "judged" ? "judged" : ""));
    const rows = candidates.map(one => {
      const row = make("tr", undefined, one.taken ? "taken" : "");
      row.classList.toggle("down", one.remarks.some(text => text.startsWith("turned down")));
      row.append(make("th", one.text.trim() || "(blank)"));
      let last;
      one.chances.forEach((chance, at) => {
        const second = stages[at].endsWith(".second");
        row.append(cell(chance, second ? undefined : last));
        if (!second) last = chance === null ? 0 : chance;
      });
      if (judged) row.append(make("td", one.remarks.join("; "), "judged"));
      return row;
    });
    const top = make("thead"), body = make("tbody");
    top.append(head);
    body.append(...rows);
    table.replaceChildren(top, body);
    const who = moved.length ? `Another token is the likeliest after ${moved.join(" and ")}. ` : "";
    by("moved").textContent =
      `${who}Small numbers: points of probability won or lost at that stage. ~0: not among the 40 likeliest.`;
  };
  const drawShares = word => {
    by("shares").replaceChildren(...word.shares.map(([source, share]) => {
      const row = make("div", undefined, source.startsWith("image") ? "share image" : "share");
      const track = make("div", undefined, "track"), fill = make("div", undefined, "fill");
      const names = { prompt: "the question", output: "its own words" };
      fill.style.width = `${100 * share}%`;
      track.append(fill);
      const pictures = word.shares.filter(([name]) => name.startsWith("image")).length;
      const named = source.startsWith("image") && pictures === 1 ? "the picture" : source.replace("image", "picture");
      row.append(make("span", names[source] || named), track, make("span", percent(share), "number"));
      return row;
    }));
  };
  const drawHeads = word => {
    const grid = word.heads, canvas = by("heads"), values = levels(grid);
    const side = Math.max(6, Math.min(34, Math.floor(360 / Math.max(grid.columns, grid.rows))));
    paint(canvas, grid, values, () => 1);
    canvas.style.width = `${side * grid.columns}px`;
    canvas.style.aspectRatio = `${grid.columns} / ${grid.rows}`;
    const best = values.reduce((top, value, at) => (value > values[top] ? at : top), 0);
    const where = at => `layer ${Math.floor(at / grid.columns)}, head ${at % grid.columns}: ${percent(values[at])}`;
    const told = `Rows are layers, the first on top; columns are heads; both count from 0. Most: ${where(best)}.`;
    by("head").textContent = told;
    by("most").textContent = percent(values[best]);
    canvas.setAttribute("aria-label", told);
    canvas.onpointermove = event => {
      const x = Math.floor(event.offsetX / canvas.clientWidth * grid.columns);
      const y = Math.floor(event.offsetY / canvas.clientHeight * grid.rows);
      const at = y * grid.columns + x;
      if (x >= 0 && x < grid.columns && values[at] !== undefined) by("head").textContent = `At the pointer: ${where(at)}.`;
    };
    canvas.onpointerleave = () => { by("head").textContent = told; };
  };
  const show = (answer, number) => {
    const word = data.told[answer].words[number];
    if (!word) return;
    drawMaps(answer, word);
    tell(word);
    drawCandidates(word);
    drawShares(word);
    drawHeads(word);
  };
  const choose = (answer, number, focus) => {
    if (!columns[answer] || !columns[answer].length) return;
    number = Math.max(0, Math.min(columns[answer].length - 1, number));
    for (const button of columns.flat()) {
      button.setAttribute("aria-pressed", "false");
      button.tabIndex = -1;
    }
    const chosen = columns[answer][number];
    chosen.setAttribute("aria-pressed", "true");
    chosen.tabIndex = 0;
    if (focus) chosen.focus();
    Object.assign(state, { answer, word: number });
    show(answer, number);
  };
  columns.forEach((buttons, answer) => buttons.forEach((button, number) => {
    button.addEventListener("click", () => choose(answer, number, true));
    button.addEventListener("pointerenter", event => { if (event.pointerType === "mouse") show(answer, number); });
    button.addEventListener("pointerleave", event => {
      if (event.pointerType === "mouse") show(state.answer, state.word);
    });
    button.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const other = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) choose(answer, number + step, true);
      else if (other && columns[answer + other]) choose(answer + other, number, true);
      else if (event.key === "Home") choose(answer, 0, true);
      else if (event.key === "End") choose(answer, buttons.length - 1, true);
      else return;
      event.preventDefault();
    });
  }));

  // -- controls -------------------------------------------------------------------------------------------------------
  const mark = () => {
    const limit = Number(by("threshold").value), only = by("only").checked;
    let low = 0, count = 0;
    columns.forEach((buttons, answer) => buttons.forEach((button, number) => {
      const words = data.told[answer].words, word = words[number], leads = word.lead === number;
      const marked = (!only || word.object !== null) && words[word.lead].grounding < limit;
      button.classList.toggle("low", marked);
      low += marked && leads;
      count += (!only || word.object !== null) && leads;
    }));
    by("limit").textContent = percent(limit);
    by("marked").textContent = `${low} of ${count} ${only ? "objects" : "words"} are marked.`;
  };
  by("threshold").addEventListener("input", mark);
  by("only").addEventListener("change", mark);
  for (const radio of all('input[name="kind"]'))
    radio.addEventListener("change", () => { state.kind = radio.value; show(state.answer, state.word); });
  by("scale").addEventListener("change", () => { state.scale = by("scale").value; show(state.answer, state.word); });
  for (const tick of all("input[data-shows]"))
    tick.addEventListener("change", () => {
      for (const layer of all(`[data-layer="${tick.dataset.shows}"]`)) layer.toggleAttribute("hidden", !tick.checked);
    });

  const ramp = data.ramp.map(corner => `rgb(${corner.join()})`).join();
  for (const bar of all(".ramp i")) bar.style.background = `linear-gradient(to right, ${ramp})`;

  const last = data.told.length - 1, differs = data.told[last].differs;
  const object = data.told[last].words.findIndex(word => word.object !== null);
  mark();
  choose(last, differs !== null ? differs : Math.max(0, object), false);
})();

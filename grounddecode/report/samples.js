"use strict";
// The list of samples: filtered here, a few on the screen at a time. All text is put in as text.
(() => {
  const held = document.getElementById("samples");
  if (!held) return;
  const data = JSON.parse(held.textContent), EACH = 20, by = id => document.getElementById(id);
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const fill = (id, names, chosen) => {
    by(id).replaceChildren(...names.map(([value, text]) => Object.assign(make("option", text), { value })));
    by(id).value = chosen;
  };
  const named = names => names.map(name => [name, name]);
  fill("part", [["", "all"], ...named(data.parts)], "");
  fill("first", named(data.methods), data.methods[0]);
  fill("second", named(data.methods), data.methods[data.methods.length - 1]);
  let page = 0, found = [];

  const tests = {
    all: () => true,
    new: (one, other) => other.errors.some(error => !one.errors.includes(error)),
    fixed: (one, other) => one.errors.some(error => !other.errors.includes(error)),
    both: (one, other) => one.errors.some(error => other.errors.includes(error)),
    differ: (one, other) => one.text !== other.text,
  };
  const search = () => {
    const first = by("first").value, second = by("second").value, kind = by("kind").value, part = by("part").value;
    const words = by("search").value.toLowerCase();
    found = data.samples.filter(sample => {
      const one = sample.answers[first], other = sample.answers[second];
      if (part && sample.part !== part) return false;
      if (words && !sample.text) {
        const said = Object.values(sample.answers).map(answer => answer.text);
        sample.text = [sample.id, sample.image, sample.prompt, ...(sample.truth || []), ...said].join(" ").toLowerCase();
      }
      if (words && !sample.text.includes(words)) return false;
      if (kind === "all") return Boolean(one || other);
      if (!one || !other) return false;
      return kind === "differ" ? tests.differ(one, other) : Boolean(one.errors && other.errors) && tests[kind](one, other);
    });
    page = 0;
    show();
  };
  const marked = answer => {
    const text = make("p"), signs = [...answer.marks];
    let at = 0;
    for (const [start, stop, real] of signs) {
      text.append(answer.text.slice(at, start), make("mark", answer.text.slice(start, stop), real ? "real" : "invented"));
      at = stop;
    }
    text.append(answer.text.slice(at));
    return text;
  };
  const explained = (sample, method) => {
    const { command, page: path } = sample.explain[method], box = make("details");
    box.append(make("summary", path ? "Explain this answer" : "How to explain this answer"));
    if (path) {
      const link = make("a", "Open its page");
      link.href = path.split("/").map(encodeURIComponent).join("/");
      const line = make("p");
      line.append(link);
      box.append(line);
    }
    box.append(make("code", command));
    return box;
  };
  const said = (sample, method) => {
    const answer = sample.answers[method], box = make("div", undefined, "said");
    box.append(make("h3", method));
    if (!answer) {
      box.append(make("p", "no answer", "soft"));
      return box;
    }
    box.append(marked(answer));
    if (answer.errors === null) box.append(make("p", "counts neither as right nor as wrong", "soft"));
    else {
      const count = sample.truth === null ? (answer.errors.length ? "✗ wrong" : "✓ right")
        : answer.errors.length ? `✗ not in the picture: ${answer.errors.join(", ")}` : "✓ nothing invented";
      box.append(make("p", count, answer.errors.length ? "bad" : "good"));
    }
    box.append(explained(sample, method));
    return box;
  };
  const shown = sample => {
    const article = make("article", undefined, "sample"), figure = make("figure"), right = make("div");
    if (sample.picture === null) figure.append(make("p", "The picture is not in this file.", "gone"));
    else {
      const image = make("img");
      image.src = data.pictures[sample.picture];
      image.alt = `Picture ${sample.image}`;
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 200));
      figure.append(image);
    }
    figure.append(make("figcaption", sample.image));
    right.append(make("p", `${sample.part}: ${sample.prompt}`, "asked"));
    if (sample.truth !== null) right.append(make("p", `In the picture: ${sample.truth.join(", ") || "nothing known"}`, "soft"));
    else if (sample.label) right.append(make("p", `Right answer: ${sample.label}`, "soft"));
    const names = [...new Set([by("first").value, by("second").value])], both = make("div", undefined, "both");
    both.append(...names.map(name => said(sample, name)));
    right.append(both);
    article.append(figure, right);
    return article;
  };
  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / EACH));
    page = Math.max(0, Math.min(pages - 1, page));
    by("list").replaceChildren(...found.slice(page * EACH, (page + 1) * EACH).map(shown));
    by("found").textContent = `${found.length} of ${data.samples.length} samples.`;
    by("page").textContent = `page ${page + 1} of ${pages}`;
    by("before").disabled = page === 0;
    by("after").disabled = page === pages - 1;
  };
  const turn = by_ => {
    page += by_;
    show();
    by("browse").scrollIntoView();
  };
  for (const id of ["part", "first", "second", "kind"]) by(id).addEventListener("change", search);
  by("search").addEventListener("input", search);
  by("filters").addEventListener("submit", event => event.preventDefault());
  by("before").addEventListener("click", () => turn(-1));
  by("after").addEventListener("click", () => turn(1));
  search();
})();

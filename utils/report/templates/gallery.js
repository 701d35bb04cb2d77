"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("gallery-data").textContent);
  const list = byId("gallery");
  const cards = Array.from(list.children);
  const controls = ["by-class", "by-split", "by-stage", "by-order", "by-name"].map(byId).filter(Boolean);
  const chosen = (id) => (byId(id) ? byId(id).value : "");
  let shown = cards;

  // The number an image is sorted by: of the chosen class where one is chosen, else of the whole image; null: unknown.
  const measure = (card) => {
    const scores = data[card.dataset.index].scores;
    const [whole, ofClass] = (chosen("by-stage") ? scores[chosen("by-stage")] : Object.values(scores).pop()) || [null, {}];
    const value = chosen("by-class");
    return value ? ofClass[value] ?? null : whole;
  };
  const compare = {
    up: (a, b) => measure(a) - measure(b),
    down: (a, b) => measure(b) - measure(a),
    name: (a, b) => (data[a.dataset.index].id < data[b.dataset.index].id ? -1 : 1),
    classes: (a, b) => (data[a.dataset.index].values[0] ?? 0) - (data[b.dataset.index].values[0] ?? 0),
  };

  function arrange() {
    const value = chosen("by-class"), split = chosen("by-split"), order = chosen("by-order");
    const name = chosen("by-name").trim().toLowerCase();
    const fits = (card) => {
      const image = data[card.dataset.index];
      return (!value || image.values.includes(Number(value))) && (!split || image.split === split) && image.id.toLowerCase().includes(name);
    };
    shown = cards.filter(fits);
    const byScore = order === "up" || order === "down";
    const known = byScore ? shown.filter((card) => measure(card) !== null) : shown;
    const unknown = byScore ? shown.filter((card) => measure(card) === null) : [];
    shown = known.sort(compare[order]).concat(unknown);
    cards.forEach((card) => { card.hidden = true; });
    shown.forEach((card) => { card.hidden = false; list.append(card); });
    document.querySelectorAll("#gallery .chip").forEach((chip) => chip.classList.toggle("chosen", chip.dataset.value === value));
    byId("count").textContent = `${shown.length} of ${cards.length}`;
  }
  controls.forEach((control) => control.addEventListener("input", arrange));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());

  // The viewer: one image large, all of its pictures or (single >= 0) one of them.
  const viewer = byId("viewer"), stage = byId("stage");
  let current = 0, single = -1;

  // Keep to one kind of picture from image to image, wherever it stands among the others.
  function step(position) {
    const kind = single >= 0 ? stage.querySelectorAll("figure")[single].dataset.kind : "";
    show(position, single);
    const kinds = Array.from(stage.querySelectorAll("figure"), (figure) => figure.dataset.kind);
    const exact = kinds.indexOf(kind);
    const same = exact >= 0 ? exact : kinds.findIndex((other) => other.split(" ")[0] === kind.split(" ")[0]);
    if (single >= 0 && same >= 0 && same !== single) show(current, same);
  }
  function show(position, picture) {
    current = Math.max(0, Math.min(shown.length - 1, position));
    const card = shown[current];
    stage.replaceChildren(...Array.from(card.children, (part) => part.cloneNode(true)));
    stage.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
    const figures = Array.from(stage.querySelectorAll("figure"));
    single = Math.min(picture, figures.length - 1);
    stage.classList.toggle("single", single >= 0);
    figures.forEach((figure, index) => {
      figure.classList.toggle("big", index === single);
      figure.addEventListener("click", () => show(current, single >= 0 ? -1 : index));
    });
    byId("position").textContent = `${current + 1} / ${shown.length}`;
    byId("previous").disabled = current === 0;
    byId("next").disabled = current === shown.length - 1;
  }
  function open(card, picture) {
    show(shown.indexOf(card), picture);
    if (!viewer.open) viewer.showModal();
    viewer.focus();
  }
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".item"), figure = event.target.closest("figure");
    if (event.target.closest(".open")) open(card, -1);
    else if (figure) open(card, Array.from(card.querySelectorAll("figure")).indexOf(figure));
  });
  byId("previous").addEventListener("click", () => step(current - 1));
  byId("next").addEventListener("click", () => step(current + 1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    const card = shown[current];
    card.scrollIntoView({ block: "nearest" });
    card.querySelector(".open").focus({ preventScroll: true });
  });
  viewer.addEventListener("keydown", (event) => {
    const pictures = stage.querySelectorAll("figure").length;
    const moves = {
      ArrowRight: () => step(current + 1),
      ArrowLeft: () => step(current - 1),
      ArrowDown: () => show(current, (single + 1) % pictures),
      ArrowUp: () => show(current, single <= 0 ? pictures - 1 : single - 1),
      Home: () => step(0),
      End: () => step(shown.length - 1),
      0: () => show(current, -1),
    };
    if (moves[event.key]) { event.preventDefault(); moves[event.key](); }
  });
  arrange();
})();

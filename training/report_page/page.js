"use strict";
const root = document.documentElement;
const toggle = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
}
function showTheme() {
  toggle.setAttribute("aria-pressed", String(isDark()));
  toggle.textContent = isDark() ? "Light" : "Dark";
}
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
prefersDark.addEventListener("change", showTheme);
showTheme();

const list = document.getElementById("cards");
if (list) {
  const cards = [...list.children];
  const values = new Map(cards.map((card) => [card, JSON.parse(card.dataset.values)]));
  const choices = [...document.querySelectorAll("select[data-filter]")];
  const order = document.getElementById("sort");
  const name = document.getElementById("name");
  const count = document.getElementById("count");
  const none = document.getElementById("none");

  function compare(a, b) {
    const [key, direction] = order.value.split(" ");
    if (key === "name") return a.dataset.name.localeCompare(b.dataset.name, "en", {numeric: true});
    const [x, y] = [values.get(a)[key], values.get(b)[key]];
    if (x == null || y == null) return (x == null) - (y == null);
    return direction === "low" ? x - y : y - x;
  }
  function update() {
    let shown = 0;
    for (const card of cards) {
      const fits = choices.every((c) => !c.value || card.dataset[c.dataset.filter] === c.value);
      const named = card.dataset.name.toLowerCase().includes(name.value.trim().toLowerCase());
      card.hidden = !(fits && named);
      shown += !card.hidden;
    }
    count.textContent = shown + " of " + cards.length + " shown";
    none.hidden = shown > 0;
  }
  function sort() {
    list.append(...cards.sort(compare));
  }
  for (const choice of choices) choice.addEventListener("change", update);
  name.addEventListener("input", update);
  order.addEventListener("change", sort);
  sort();
  update();
}

const zoom = document.getElementById("zoom");
let opened = null;
function enlarge(figure) {
  opened = figure;
  const small = figure.querySelector("img");
  const large = zoom.querySelector("img");
  large.src = small.src;
  large.alt = small.alt;
  zoom.querySelector("figcaption").textContent = small.alt;
}
document.addEventListener("click", (event) => {
  const button = event.target.closest(".strip button");
  if (!button) return;
  enlarge(button.parentElement);
  zoom.showModal();
});
zoom.addEventListener("click", (event) => {
  if (event.target === zoom) zoom.close();
});
zoom.addEventListener("keydown", (event) => {
  const next = {ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling"}[event.key];
  if (next && opened && opened[next]) enlarge(opened[next]);
});

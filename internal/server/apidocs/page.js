"use strict";
// The page works without this: it only narrows the lists, and opens what a link leads to.
const box = document.getElementById("search"), found = document.getElementById("found");
box.parentElement.hidden = false;
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  for (const e of document.querySelectorAll("[data-find]")) {
    const fits = words.every((w) => e.dataset.find.includes(w));
    e.hidden = !fits;
    if (fits && e.tagName === "DETAILS") n++;
  }
  found.textContent = words.length ? n + (n === 1 ? " operation" : " operations") : "";
});
function open() {
  const e = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (e && e.tagName === "DETAILS") { e.open = true; e.scrollIntoView(); }
}
addEventListener("hashchange", open);
open();

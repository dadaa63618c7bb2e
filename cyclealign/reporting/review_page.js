"use strict";
const lists = document.getElementById("lists");
const articles = [...lists.querySelectorAll("article")];
const memory = "cyclealign review " + lists.dataset.version;

/* The list with its tiers, ids best first; null while a response has no place. */
function row(article) {
  const list = JSON.parse(article.dataset.list);
  const places = list.candidates.map((c) => {
    const checked = article.querySelector(`input[name="${article.id}-${c.id}"]:checked`);
    return [c.id, checked ? Number(checked.value) : 0];
  });
  if (places.some((one) => one[1] === 0)) return null;
  const used = [...new Set(places.map((one) => one[1]))].sort((a, b) => a - b);
  const tiers = used.map((place) => places.filter((one) => one[1] === place).map((one) => one[0]));
  return { ...list, tiers };
}

function marked() {
  return articles.map(row).filter((found) => found !== null).map((found) => JSON.stringify(found) + "\n").join("");
}

function count() {
  let done = 0;
  for (const article of articles) {
    const complete = row(article) !== null;
    article.classList.toggle("done", complete);
    done += complete ? 1 : 0;
  }
  document.getElementById("count").textContent = `${done} of ${articles.length} lists marked`;
}

/* Browsers may refuse to remember anything of a file: then the marks last as long as the page. */
function remember() {
  const checked = [...lists.querySelectorAll("input:checked")].map((input) => [input.name, input.value]);
  try { localStorage.setItem(memory, JSON.stringify(checked)); } catch { /* not kept */ }
}

function recall() {
  try {
    for (const [name, value] of JSON.parse(localStorage.getItem(memory) || "[]")) {
      const input = lists.querySelector(`input[name="${name}"][value="${value}"]`);
      if (input) input.checked = true;
    }
  } catch { /* nothing was kept */ }
}

lists.addEventListener("change", () => { remember(); count(); });
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([marked()], { type: "application/jsonl" }));
  link.download = "marked.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
recall();
count();

"use strict";
// Sorts and filters the rows of the summary. The addresses of the links above the table, such as #state=failed, set
// the filter. Without JavaScript the table shows all rows in the order of the cohort.
(() => {
  const form = document.getElementById("filter");
  const heads = Array.from(document.querySelectorAll("#series thead th"));
  const body = document.querySelector("#series tbody");
  const collator = new Intl.Collator("en", { numeric: true });
  const rows = Array.from(body.rows);
  const column = (key) => heads.findIndex((head) => head.dataset.key === key);
  const text = (row, index) => row.cells[index].textContent.trim();
  const chosen = ["state", "scanner", "kernel"];

  // The text of a row that is searched, with the UIDs in full.
  const searched = new Map(rows.map((row) => {
    const uids = Array.from(row.querySelectorAll("[title]"), (element) => element.title);
    return [row, [row.textContent, ...uids].join(" ").toLowerCase()];
  }));

  function filter() {
    const words = form.elements.text.value.toLowerCase().split(/\s+/);
    const wanted = chosen.map((name) => [column(name), form.elements[name].value]).filter(([, value]) => value);
    const warned = form.elements.warned.checked;
    const warnings = column("warnings");
    let shown = 0;
    for (const row of rows) {
      const matches = words.every((word) => searched.get(row).includes(word))
        && wanted.every(([index, value]) => text(row, index) === value)
        && (!warned || text(row, warnings) !== "");
      row.hidden = !matches;
      shown += matches;
    }
    document.getElementById("shown").value = `${shown} of ${rows.length} series`;
  }

  function sort(index) {
    const head = heads[index];
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const number = head.classList.contains("number");
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const keys = new Map(rows.map((row) => [row, number ? parseFloat(text(row, index)) : text(row, index)]));
    const unknown = (key) => key === "" || Number.isNaN(key);
    rows.sort((one, other) => {
      const [first, second] = [keys.get(one), keys.get(other)];
      if (unknown(first) || unknown(second)) {
        return unknown(first) - unknown(second);
      }
      const order = number ? first - second : collator.compare(first, second);
      return ascending ? order : -order;
    });
    body.append(...rows);
  }

  function follow() {
    const address = new URLSearchParams(location.hash.slice(1));
    if (chosen.some((name) => address.has(name))) {
      form.reset();
      chosen.forEach((name) => { form.elements[name].value = address.get(name) ?? ""; });
      document.getElementById("list").scrollIntoView();
    }
    filter();
  }

  for (const name of chosen) {
    const values = new Set(rows.map((row) => text(row, column(name))));
    form.elements[name].append(...Array.from(values).sort(collator.compare).map((value) => new Option(value)));
  }
  heads.forEach((head, index) => {
    if (head.dataset.key) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(index));
      head.append(button);
    }
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  window.addEventListener("hashchange", follow);
  form.hidden = false;
  follow();
})();

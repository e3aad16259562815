"use strict";
// The table of clients: searched by any of its words, sorted by any of its columns. Without this the page has the worst ones.
(() => {
  const rows = JSON.parse(document.getElementById("clients-data").textContent);
  const section = document.getElementById("clients");
  const body = section.querySelector("tbody");
  const search = section.querySelector("input");
  const status = section.querySelector("[role=status]");
  const heads = [...section.querySelectorAll("thead th")];
  const most = 200;
  // What a column sorts by: the delay by its upper end, which is the next word of a row.
  const keys = [0, 1, 2, 4, 5, 6, 7, 8];
  const columns = [0, 1, 2, 3, 5, 6, 7, 8];
  // A column of which nothing is known takes no room.
  const shown = columns.map((column) => rows.some((row) => row[column] !== null));
  heads.forEach((head, place) => (head.hidden = !shown[place]));
  const text = rows.map((row) => row.filter((word) => word !== null).join(" ").toLowerCase());
  let by = 3, down = true;
  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 3 });
  const order = (a, b) => {
    const [one, other] = [rows[a][keys[by]], rows[b][keys[by]]];
    // What has no value has no end: it is more than any.
    if (one === null || other === null) return (one === null) - (other === null);
    return one < other ? -1 : one > other ? 1 : 0;
  };
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.map((_, index) => index).filter((index) => words.every((word) => text[index].includes(word)));
    found.sort((a, b) => (down ? -1 : 1) * order(a, b) || a - b);
    body.replaceChildren(...found.slice(0, most).map((index) => {
      const line = document.createElement("tr");
      columns.forEach((column, place) => {
        if (!shown[place]) return;
        const cell = document.createElement(place === 0 ? "th" : "td");
        if (place === 0) cell.scope = "row";
        const value = rows[index][column];
        cell.textContent = value === null ? "unknown" : typeof value === "number" ? number(value) : value;
        line.append(cell);
      });
      return line;
    }));
    status.textContent = number(found.length) + " found" + (found.length > most ? ", the first " + most + " shown" : "");
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === by ? (down ? "descending" : "ascending") : "none"));
  };
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    down = place === by ? !down : place > 2;
    by = place;
    draw();
  }));
  search.addEventListener("input", draw);
  section.hidden = false;
  draw();
})();

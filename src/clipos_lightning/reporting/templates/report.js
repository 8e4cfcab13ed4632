"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // Tables: a click on a header sorts by its column, a second click reverses the order; rows without a value come last.
  const valueOf = (row, column) => {
    const text = row.cells[column].textContent.trim().replace(/,/g, "");
    return text === "–" || text === "" ? null : isNaN(parseFloat(text)) ? text : parseFloat(text);
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const sort = (header) => {
    const table = header.closest("table"), column = header.cellIndex, body = table.tBodies[0], rows = [...body.rows];
    const isText = rows.every(row => typeof valueOf(row, column) !== "number");
    const bestFirst = isText || header.textContent.includes("↓") ? "ascending" : "descending";
    const reversed = { ascending: "descending", descending: "ascending" }[header.getAttribute("aria-sort")];
    const order = reversed || bestFirst, sign = order === "ascending" ? 1 : -1;
    const keyed = rows.map(row => [valueOf(row, column), row]);
    keyed.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
    body.append(...keyed.map(([, row]) => row));
    all("th[aria-sort]", table).forEach(other => other.setAttribute("aria-sort", other === header ? order : "none"));
  };
  all("th[aria-sort] button").forEach(button => button.addEventListener("click", () => sort(button.parentElement)));

  // The threshold: the accepted images of each cell of the confusion matrix at each threshold of the grid.
  const data = JSON.parse(document.getElementById("slider-data").textContent);
  const columns = data.columns, classes = data.right.length;
  const accepted = data.drops.map(drops => {
    const counts = new Int32Array(data.thresholds.length);
    for (let i = 0; i < drops.length; i += 2) counts[drops[i]] = drops[i + 1];
    for (let k = counts.length - 2; k >= 0; k--) counts[k] += counts[k + 1];
    return counts;
  });
  const sum = values => values.reduce((a, b) => a + b, 0);
  const count = n => n.toLocaleString("en-US");
  const percent = (n, total) => total ? (100 * n / total).toFixed(1) : "–";
  const inside = data.totals.slice(0, classes), outside = data.totals.slice(classes), images = sum(inside);

  const numbersAt = k => {
    const cells = accepted.map(counts => counts[k]);
    const rows = data.totals.map((_, r) => sum(cells.slice(r * columns, (r + 1) * columns)));
    const right = data.right.map((column, r) => cells[r * columns + column]);
    const ids = sum(rows.slice(0, classes)), hits = sum(right), shares = outside.map((n, i) => rows[classes + i] / n);
    const live = {
      cut: data.thresholds[k], ids: count(ids), recall: percent(ids, images), hits: count(hits),
      hitshare: percent(hits, images), hitrate: percent(hits, ids), oods: percent(sum(shares), shares.length),
    };
    cells.forEach((n, i) => { live[`cell${i}`] = count(n); });
    data.totals.forEach((n, r) => {
      Object.assign(live, { [`row${r}`]: percent(rows[r], n), [`unknown${r}`]: count(n - rows[r]) });
    });
    right.forEach((n, r) => { live[`right${r}`] = percent(n, inside[r]); });
    return { live, cells, rows, recall: ids / images, shares };
  };

  const slider = document.getElementById("slider"), presets = all(".presets button");
  const numbers = all("[data-live]"), matrixCells = all("td[data-cell]");
  const cuts = all(".cut"), veils = all(".veil"), dots = all(".rocs .dot");
  const [low, high] = data.axis, toPosition = score => Math.min(1, Math.max(0, (score - low) / (high - low)));

  // The command that gives the detector the threshold shown; the clipboard may be missing or refused in a local file.
  const command = document.getElementById("command"), copied = document.getElementById("copied");
  const showCommand = threshold => {
    if (!command) return;
    command.textContent = command.dataset.start + (threshold.startsWith("-") ? "=" : " ") + threshold;
    copied.textContent = "";
  };
  document.getElementById("copy")?.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copied.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command);
      copied.textContent = "selected: press Ctrl+C or ⌘C to copy";
    }
  });

  const show = k => {
    const { live, cells, rows, recall, shares } = numbersAt(k);
    numbers.forEach(node => { node.textContent = live[node.dataset.live]; });
    matrixCells.forEach(td => {
      const row = Number(td.dataset.row), total = data.totals[row];
      const n = td.dataset.cell === "unknown" ? total - rows[row] : cells[td.dataset.cell];
      td.style.setProperty("--s", total ? Math.sqrt(n / total) : 0);
      td.classList.toggle("nil", n === 0);
    });
    const x = 1000 * toPosition(Number(data.thresholds[k]));
    cuts.forEach(line => { line.setAttribute("x1", x); line.setAttribute("x2", x); });
    veils.forEach(rect => rect.setAttribute("width", x));
    dots.forEach((dot, i) => { dot.setAttribute("cx", 100 * shares[i]); dot.setAttribute("cy", 100 - 100 * recall); });
    presets.forEach(button => button.setAttribute("aria-pressed", Number(button.dataset.index) === k));
    showCommand(live.cut);
    slider.value = k;
    slider.setAttribute("aria-valuetext", `${live.cut}: ${live.recall} % of ID images accepted`);
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  presets.forEach(button => button.addEventListener("click", () => show(Number(button.dataset.index))));

  // A click or drag in the histograms selects the nearest threshold of the grid.
  const pick = event => {
    const box = event.currentTarget.getBoundingClientRect();
    const score = low + (high - low) * (event.clientX - box.left) / box.width;
    const distances = data.thresholds.map(t => Math.abs(Number(t) - score));
    show(distances.indexOf(Math.min(...distances)));
  };
  all(".strips svg").forEach(svg => {
    svg.addEventListener("pointerdown", event => { svg.setPointerCapture(event.pointerId); pick(event); });
    svg.addEventListener("pointermove", event => { if (event.buttons) pick(event); });
  });
  show(data.start);

  // Boxes that scroll are reached with the Tab key.
  const setTabStops = () => all(".scroll").forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    if (scrolls) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  addEventListener("resize", setTabStops);
  all("details").forEach(d => d.addEventListener("toggle", setTabStops));
  setTabStops();

  addEventListener("beforeprint", () => all("details.scores").forEach(d => { d.open = true; }));
})();

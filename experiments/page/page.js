"use strict";
// Tables: a button in each head sorts; the paper's row stays under ours.
const number = (text) => {
  const found = text.replace(/,/g, "").match(/^[^\d]*?(-?\d*\.?\d+)/);
  return found ? parseFloat(found[1]) : NaN;
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!body) continue;
  const groups = [];
  for (const row of body.rows) {
    const paper = row.cells[0].textContent.trim() === "in the paper";
    if (paper && groups.length) { row.classList.add("paper"); groups.at(-1).push(row); }
    else groups.push([row]);
  }
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    if (!head.textContent.trim() && i) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent.trim() || "name";
    if (button.textContent === "ours" && i)  // of the measure in the head before it
      button.setAttribute("aria-label", heads[i - 1].textContent.replace("paper", "ours"));
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = (g) => g[0].cells[i].textContent.trim();
      const numeric = groups.filter((g) => !isNaN(number(text(g)))).length > groups.length / 2;
      groups.sort((a, b) => {
        const [x, y] = numeric ? [number(text(a)), number(text(b))] : [text(a), text(b)];
        if (numeric && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y);
        return (numeric ? x - y : x.localeCompare(y)) * (up ? 1 : -1);
      });
      body.append(...groups.flat());
    });
  });
  if (groups.length >= 30) {
    const label = document.createElement("label");
    label.className = "search";
    const field = document.createElement("input");
    field.type = "search";
    label.append("Rows with: ", field);
    table.parentElement.before(label);
    field.addEventListener("input", () => {
      for (const row of body.rows)
        row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase());
    });
  }
}
// Charts: the measure across, the series shown, and the numbers of a point.
for (const chart of document.querySelectorAll(".chart")) {
  const said = chart.querySelector(".said");
  chart.querySelector("select").addEventListener("change", (event) => {
    for (const svg of chart.querySelectorAll("svg"))
      svg.toggleAttribute("hidden", svg.dataset.key !== event.target.value);
  });
  for (const box of chart.querySelectorAll("input[type=checkbox]"))
    box.addEventListener("change", () => {
      for (const g of chart.querySelectorAll(`g[data-series="${box.dataset.series}"]`))
        g.classList.toggle("off", !box.checked);
    });
  for (const dot of chart.querySelectorAll(".dot"))
    for (const kind of ["focus", "mouseenter", "click"])
      dot.addEventListener(kind, () => { said.textContent = dot.getAttribute("aria-label"); });
}
// Faces: the slider chooses the line of pictures.
for (const strip of document.querySelectorAll(".strip")) {
  const { shown, ssim } = JSON.parse(strip.dataset.strip);
  const slider = strip.querySelector("input"), output = strip.querySelector("output");
  const show = () => {
    const i = Number(slider.value);
    output.textContent = shown[i];
    slider.setAttribute("aria-valuetext", shown[i]);
    strip.querySelectorAll("figure").forEach((figure, k) => {
      const face = figure.querySelector(".face");
      face.style.setProperty("--y", i + 1);
      face.setAttribute("aria-label", `R's picture of face ${k + 1}, ${shown[i]}`);
      figure.querySelector("figcaption").textContent = `SSIM ${ssim[i][k].toFixed(2)}`;
    });
  };
  slider.addEventListener("input", show);
  show();
}

// Draws the points that the page holds, and draws them again when the page has newer ones.
"use strict";

const holder = document.getElementById("charts");
const columnsNow = () => JSON.parse(document.getElementById("points").dataset.columns);
const colours = ["#2f81f7", "#db6d28", "#2da44e"];

// Columns: time, tokens/s, prompts/s, in flight, queued, latency, online p50, online p95.
const CHARTS = [
  { title: "Tokens a second", lines: [["tokens/s", 1]] },
  { title: "Prompts answered a second", lines: [["prompts/s", 2]] },
  { title: "Prompts in flight and queued", lines: [["in flight", 3], ["queued", 4]] },
  { title: "Latency in seconds", lines: [["all prompts, mean", 5], ["online, median", 6], ["online, 95%", 7]] },
];

function width() {
  return Math.max(280, Math.floor((holder.clientWidth - (holder.clientWidth > 900 ? 24 : 0)) / (holder.clientWidth > 900 ? 2 : 1)));
}

function dataOf(chart, columns) {
  return columns.length ? [columns[0], ...chart.lines.map(([, index]) => columns[index])] : [[], ...chart.lines.map(() => [])];
}

function draw() {
  const style = window.getComputedStyle(document.body);
  const axis = {
    stroke: style.getPropertyValue("--soft"),
    grid: { stroke: style.getPropertyValue("--line"), width: 1 },
    ticks: { show: false },
  };
  const columns = columnsNow();
  holder.replaceChildren();
  return CHARTS.map((chart) => new uPlot({
    title: chart.title,
    width: width(),
    height: 240,
    cursor: { sync: { key: "charts" } },
    scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    axes: [{ ...axis, space: 90, values: "{HH}:{mm}:{ss}" }, { ...axis, size: 64 }],
    series: [{ label: "UTC", value: "{HH}:{mm}:{ss}" }, ...chart.lines.map(([label], index) => ({
      label, stroke: colours[index], width: 2, spanGaps: false,
      value: (_, value) => (value === null || value === undefined ? "–" : value.toLocaleString("en")),
    }))],
  }, dataOf(chart, columns), holder));
}

let charts = draw();
document.querySelector("[data-live]").addEventListener("changed", () => {
  const columns = columnsNow();
  charts.forEach((chart, index) => chart.setData(dataOf(CHARTS[index], columns)));
});
const redraw = () => { charts = draw(); };
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
window.addEventListener("resize", () => charts.forEach((chart) => chart.setSize({ width: width(), height: 240 })));

// Draws the charts that notebooks keep as data.
for (const chart of document.querySelectorAll(".chart")) {
  const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
  Plotly.newPlot(chart.querySelector("[role=img]"), data, layout, { responsive: true, displayModeBar: false });
}

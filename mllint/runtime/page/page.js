"use strict";
// The library lies compressed in the page, so that the file stays small; browsers unpack it themselves.
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = Object.keys(figures).map((name) => [document.getElementById("plot-" + name), figures[name]]);
  if (!plots.length) return;
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    for (const [place] of plots) place.textContent = "This browser is too old to draw the curves (" + error.message + "). The numbers stand below.";
    return;
  }
  const value = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  function painted(figure) {
    const ink = value("quiet"), grid = value("grid");
    const data = figure.data.map((trace) => {
      const color = value("c" + trace.meta.color);
      return trace.type === "bar"
        ? { ...trace, marker: { color, line: { width: 0 } } }
        : { ...trace, line: { width: 2, ...trace.line, color }, marker: { size: 5, color } };
    });
    const axis = { gridcolor: grid, linecolor: value("rule"), zeroline: false, automargin: true, ticks: "", color: ink };
    const layout = {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      margin: { l: 8, r: 12, t: 8, b: 8 },
      hovermode: "x unified",
      hoverlabel: { bgcolor: value("panel"), bordercolor: value("rule"), font: { color: value("ink") } },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", ...figure.layout.legend },
      xaxis: { ...axis, showgrid: false, tickformat: "d", hoverformat: "d", nticks: 10, ...figure.layout.xaxis },
      yaxis: { ...axis, nticks: 7, ...figure.layout.yaxis },
      shapes: (figure.layout.shapes || []).map(({ meta, ...shape }) => ({
        ...shape, layer: "below", line: meta === "bad" ? { color: value("confirmed"), width: 2 } : { color: ink, width: 1, dash: "dot" },
      })),
    };
    return [data, layout];
  }

  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const draw = () => Promise.all(plots.map(([place, figure]) => Plotly.react(place, ...painted(figure), config)));
  await draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.documentElement.dataset.drawn = String(plots.length);
})();

"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // A finger that drags over a figure means to scroll the page; a mouse may zoom.
  const mouse = matchMedia("(hover: hover)").matches;
  const config = {
    displayModeBar: mouse ? "hover" : false,
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg" },
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d"],
  };

  // Figures name their colours as CSS variables; put in what the current theme gives them.
  const themed = (value, style) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = themed(figures[place.dataset.figure], style);
      Plotly.react(place, figure.data, { ...figure.layout, dragmode: mouse ? "zoom" : false }, config);
    }
  };

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();

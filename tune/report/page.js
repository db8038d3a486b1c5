// Draws the plots in the look that the reader's system asks for, one a frame so that a long page stays usable, and again when
// that look changes.
(function () {
  "use strict";
  const { figures, themes } = JSON.parse(document.getElementById("plots").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const options = { responsive: true, displayModeBar: false };
  const finger = window.matchMedia("(pointer: coarse)"); // a finger that moves scrolls the page, a mouse zooms
  const print = window.matchMedia("print");

  function draw(name) {
    const place = document.getElementById(name);
    const figure = figures[name];
    const template = themes[dark.matches && !print.matches ? "dark" : "light"];
    const layout = Object.assign({}, figure.layout, { template: template, height: Number(place.dataset.height), autosize: true, dragmode: finger.matches ? false : "zoom" });
    return Plotly.react(place, figure.data, layout, options);
  }

  function drawAll() {
    const names = Object.keys(figures);
    function next() {
      const name = names.shift();
      if (name === undefined) {
        document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
        return;
      }
      draw(name);
      window.requestAnimationFrame(next);
    }
    next();
  }

  dark.addEventListener("change", drawAll);
  drawAll();
})();

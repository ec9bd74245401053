// Bokeh draws on a canvas, which the style sheet does not reach.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const models = () => Bokeh.documents.flatMap((document) => [...document.all_models]);

function paint() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const soft = style.getPropertyValue("--soft").trim();
  const line = style.getPropertyValue("--line").trim();
  for (const model of models()) {
    if (/Axis$/.test(model.type)) {
      model.axis_label_text_color = soft;
      model.major_label_text_color = soft;
      model.axis_line_color = line;
      model.major_tick_line_color = line;
      model.minor_tick_line_color = null;
    } else if (model.type === "Grid") {
      model.grid_line_color = line;
    } else if (model.type === "Title") {
      model.text_color = text;
    } else if (model.type === "Span") {
      model.line_color = soft;
    }
  }
}

function whenDrawn(action) {
  if (window.Bokeh && Bokeh.documents.length) action();
  else setTimeout(() => whenDrawn(action), 50);
}

whenDrawn(paint);
dark.addEventListener("change", paint);
for (const button of document.querySelectorAll(".legend")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const model of models()) {
      if (model.type === "GlyphRenderer" && model.name === button.dataset.run) {
        model.visible = shown;
      }
    }
  });
}
